"""Devices: how they are described, reached and asked. No SSH library is imported until an ssh:// device is opened."""

from edgenas.device.connection import Completed, Connection, connect, fetch_host_key, trust
from edgenas.device.device import Device, Limits, Runtime, device_names, fingerprint, list_devices, parse_url, remove
from edgenas.device.session import Agent, DeviceInfo, RuntimeState, shares_host

__all__ = [
    "Agent",
    "Completed",
    "Connection",
    "Device",
    "DeviceInfo",
    "Limits",
    "Runtime",
    "RuntimeState",
    "connect",
    "device_names",
    "fetch_host_key",
    "fingerprint",
    "list_devices",
    "parse_url",
    "remove",
    "shares_host",
    "trust",
]
