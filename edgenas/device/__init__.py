"""Devices: how they are described, reached and asked. No SSH library is imported until an ssh:// device is opened."""

from edgenas.device.adb import find_adb
from edgenas.device.connecting import connect, fetch_host_key, trust
from edgenas.device.connection import Completed, Connection
from edgenas.device.device import (
    Device,
    Limits,
    Runtime,
    add,
    device_names,
    fingerprint,
    list_devices,
    parse_url,
    phone_delegate,
    remove,
)
from edgenas.device.finding import Finding
from edgenas.device.inspect import findings
from edgenas.device.phone import Phone, PhoneInfo, open_phone
from edgenas.device.phone_setup import setup_phone
from edgenas.device.session import Agent, DeviceInfo, RuntimeState, open_agent, shares_host
from edgenas.device.setup import setup

__all__ = [
    "Agent",
    "Completed",
    "Connection",
    "Device",
    "DeviceInfo",
    "Finding",
    "Limits",
    "Phone",
    "PhoneInfo",
    "Runtime",
    "RuntimeState",
    "add",
    "connect",
    "device_names",
    "fetch_host_key",
    "find_adb",
    "findings",
    "fingerprint",
    "list_devices",
    "open_agent",
    "open_phone",
    "parse_url",
    "phone_delegate",
    "remove",
    "setup",
    "setup_phone",
    "shares_host",
    "trust",
]
