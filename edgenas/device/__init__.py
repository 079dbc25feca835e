"""Devices: how they are described, reached and asked. No SSH library is imported until an ssh:// device is opened."""

from edgenas.device.connection import Completed, Connection, connect, fetch_host_key, trust
from edgenas.device.device import (
    Device,
    Limits,
    Runtime,
    add,
    device_names,
    fingerprint,
    list_devices,
    parse_url,
    remove,
)
from edgenas.device.inspect import Finding, findings
from edgenas.device.session import Agent, DeviceInfo, RuntimeState, shares_host
from edgenas.device.setup import setup

__all__ = [
    "Agent",
    "Completed",
    "Connection",
    "Device",
    "DeviceInfo",
    "Finding",
    "Limits",
    "Runtime",
    "RuntimeState",
    "add",
    "connect",
    "device_names",
    "fetch_host_key",
    "findings",
    "fingerprint",
    "list_devices",
    "parse_url",
    "remove",
    "setup",
    "shares_host",
    "trust",
]
