"""The way to a device that its URL asks for, and the trust that one by SSH needs."""

import dataclasses
from collections.abc import Callable

from edgenas.device.connection import Connection, LocalConnection
from edgenas.device.device import Device
from edgenas.errors import CheckFailedError, DeviceError, InputError


def connect(device: Device) -> Connection:
    """The connection that a device's URL asks for; nothing is opened yet."""
    match device.address.kind:
        case "local":
            return LocalConnection(device)
        case "ssh":
            from edgenas.device.ssh import SshConnection

            return SshConnection(device)
        case "adb":
            from edgenas.device.adb import AdbConnection

            return AdbConnection(device)


def fetch_host_key(device: Device) -> tuple[str, str]:
    """The host key that the device shows now, as a line and as its fingerprint. Nothing is trusted by this.

    Raises:
        InputError: not a device that is reached by SSH.
        DeviceError: unreachable, or no SSH server.
    """
    if device.address.kind != "ssh":
        raise InputError(f"{device.name} ({device.url}) has no host key; only ssh:// devices have one.")
    from edgenas.device import ssh

    return ssh.fetch_host_key(device)


def trust(device: Device, expected: str | None = None, confirm: Callable[[str], bool] | None = None) -> Device:
    """Pin the host key that the device shows now, and save the device.

    Args:
        expected: the fingerprint it must have ("SHA256:..."); then nobody is asked.
        confirm: asked with the fingerprint shown; True accepts it.

    Raises:
        CheckFailedError: another fingerprint than expected.
        DeviceError: not accepted, unreachable, or no SSH server.
    """
    line, shown = fetch_host_key(device)
    if expected is not None:
        if shown.removeprefix("SHA256:") != expected.removeprefix("SHA256:").rstrip("="):
            raise CheckFailedError(
                f"{device.name}: expected a host key with the fingerprint {expected}, received {shown}. Not trusted."
            )
    elif confirm is None or not confirm(shown):
        raise DeviceError(f"{device.name}: its host key {shown} was not accepted, so nothing is sent to it.")
    trusted = dataclasses.replace(device, host_key=line)
    trusted.save()
    return trusted
