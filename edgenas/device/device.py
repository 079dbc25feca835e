"""A device as it is written down: `devices/NAME.toml`. Pure data, and never a secret in it."""

import base64
import binascii
import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from edgenas.errors import InputError, near
from edgenas.files import as_mapping, check_name, find_shipped, from_mapping, read_toml, shipped_folders, write_toml

_FORMS = "expected local:, ssh://[user@]host[:port] or adb:SERIAL"
_HOST = re.compile(r"[A-Za-z0-9_:.%][A-Za-z0-9_:.%-]*")  # no leading '-': it may reach a ProxyCommand
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@\\-]*")
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")


@dataclass(frozen=True)
class Address:
    """Where a device is: what its URL says."""

    kind: Literal["local", "ssh", "adb"]
    host: str = ""  # the SSH host (perhaps an alias of ~/.ssh/config), or adb's serial number
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Runtime:
    """What runs the models on the device."""

    package: Literal["ai-edge-litert", "tflite-runtime", "benchmark-model"] = "ai-edge-litert"
    python: str | None = None  # the interpreter on the device; None: found
    cores: tuple[int, ...] | None = None  # the cores that models are bound to; None: the system's choice
    benchmark_model: str | None = None  # phones: TFLite's tool of that name for the phone's ABI, a path on the host
    delegate: Literal["xnnpack", "gpu", "nnapi", "none"] | None = None  # phones: who runs the operators; None: xnnpack


@dataclass(frozen=True)
class Limits:
    """What a model may cost on this device; None: no limit."""

    max_latency_ms: float | None = None
    max_peak_memory_kb: float | None = None
    max_arena_kb: float | None = None
    max_model_kb: float | None = None


@dataclass(frozen=True)
class Device:
    """A target device, as `devices/NAME.toml` describes it."""

    name: str
    url: str  # local:, ssh://[user@]host[:port], adb:SERIAL
    host_key: str | None = None  # the pinned key, as OpenSSH writes it: "ssh-ed25519 AAAA..."
    identity_file: str | None = None  # the user's private key on the host
    folder: str = ".edgenas"  # the work folder on the device: below the user's home, or absolute
    runtime: Runtime = Runtime()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        check_name("device", self.name)
        parse_url(self.url)
        if self.host_key is not None:
            fingerprint(self.host_key)
        if not self.folder.strip("/") or not self.folder.isprintable() or ".." in self.folder.split("/"):
            raise InputError(
                f"Device {self.name!r}: folder is {self.folder!r}; expected a folder below the home on the device "
                "such as '.edgenas', or an absolute one such as '/data/edgenas'."
            )
        if self.runtime.cores is not None and (not self.runtime.cores or min(self.runtime.cores) < 0):
            raise InputError(
                f"Device {self.name!r}: cores is {list(self.runtime.cores)}; expected core numbers such as [2, 3]."
            )
        for key, value in dataclasses.asdict(self.limits).items():
            if value is not None and value <= 0:
                raise InputError(f"Device {self.name!r}: {key} is {value}; expected a number above 0.")
        self._check_phone()

    def _check_phone(self) -> None:
        """A phone runs models with benchmark_model alone, and nothing else does."""
        runtime, phone = self.runtime, self.address.kind == "adb"
        if phone != (runtime.package == "benchmark-model"):
            expected = "benchmark-model" if phone else "ai-edge-litert or tflite-runtime"
            raise InputError(
                f"Device {self.name!r} ({self.url}): its runtime's package is {runtime.package}; expected {expected}. "
                "Phones (adb:SERIAL), and only they, run models with benchmark-model."
            )
        if not phone and (runtime.benchmark_model is not None or runtime.delegate is not None):
            raise InputError(
                f"Device {self.name!r} ({self.url}): benchmark_model and delegate are for phones (adb:SERIAL) only."
            )
        if phone and (not runtime.benchmark_model or not runtime.benchmark_model.isprintable()):
            raise InputError(
                f"Device {self.name!r}: benchmark_model is {runtime.benchmark_model!r}; expected the path of TFLite's "
                f"benchmark_model for the phone: edgenas device add {self.name} {self.url} --benchmark-model PATH"
            )
        if phone and runtime.python is not None:
            raise InputError(f"Device {self.name!r}: python is {runtime.python!r}; a phone has none, leave it out.")

    @property
    def address(self) -> Address:
        return parse_url(self.url)

    @classmethod
    def load(cls, name: str) -> Self:
        """The device of this name: the user's `devices/` first, then those that came with EdgeNAS.

        Raises:
            InputError: there is none, or its file is not right.
        """
        path = find_shipped("devices", check_name("device", name), ".toml")
        if path is None:
            raise InputError(
                f"There is no device {name!r}. {near(name, device_names())} "
                f"To add it: edgenas device add {name} ssh://USER@HOST"
            )
        content = read_toml(path, "device")
        if content.setdefault("name", name) != name:
            raise InputError(f"{path}: the name inside is {content['name']!r}; expected {name!r}, or none.")
        return from_mapping(cls, content, str(path))

    def save(self) -> Path:
        """Write `devices/NAME.toml` in the current folder, atomically, and return its path."""
        content = as_mapping(self)
        del content["name"]  # the file's name says it
        path = Path("devices") / f"{self.name}.toml"
        write_toml(path, {key: value for key, value in content.items() if value != {}})
        return path


def phone_delegate(device: Device) -> str | None:
    """What a phone's benchmark_model hands operators to, as a table's identity names it; None for other devices."""
    if device.address.kind != "adb":
        return None
    return {"gpu": "GPU", "nnapi": "NNAPI", "none": "none"}.get(device.runtime.delegate or "xnnpack", "XNNPACK")


def add(device: Device) -> Path:
    """Write a new device down, and return its file's path.

    Raises:
        InputError: the name is taken.
    """
    path = Path("devices") / f"{device.name}.toml"
    if path.exists():
        raise InputError(
            f"There is a device {device.name!r} already ({path}). Choose another name, edit that file, or first: "
            f"edgenas device remove {device.name}"
        )
    return device.save()


def device_names() -> list[str]:
    """The names of all devices, the user's and those that came with EdgeNAS, sorted."""
    return sorted({path.stem for folder in shipped_folders("devices") for path in folder.glob("*.toml")})


def list_devices() -> list[Device]:
    """All devices by name."""
    return [Device.load(name) for name in device_names()]


def remove(name: str) -> None:
    """Forget a device of the user's. What lies on the device itself stays there.

    Raises:
        InputError: it does not exist, or came with EdgeNAS.
    """
    path = Path("devices") / f"{check_name('device', name)}.toml"
    if path.is_file():
        path.unlink()
    elif find_shipped("devices", name, ".toml"):
        raise InputError(f"The device {name!r} came with EdgeNAS and stays; only those in ./devices can be removed.")
    else:
        raise InputError(f"There is no device {name!r}. {near(name, device_names())}")


def parse_url(url: str) -> Address:
    """What a device's URL says.

    Raises:
        InputError: no form that EdgeNAS knows, or it carries a password.
    """
    if url == "local:":
        return Address("local", "localhost")
    if url.startswith("adb:"):
        serial = url.removeprefix("adb:")
        if not _SERIAL.fullmatch(serial):
            raise InputError(f"The URL {url!r} has no serial number; {_FORMS}. `adb devices` lists them.")
        return Address("adb", serial)
    if not url.startswith("ssh://"):
        raise InputError(f"The URL {url!r} is not one of a device; {_FORMS}.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"The URL {url!r} cannot be read: {error}; {_FORMS}.") from None
    if parts.password is not None:
        raise InputError(  # the URL itself is not repeated: the password is in it
            f"The URL of {parts.hostname} holds a password, and EdgeNAS stores none: leave it out; "
            "use a key, or type the password when asked."
        )
    host = parts.netloc.rpartition("@")[2]
    host = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    plain = parts.path in ("", "/") and not parts.query and not parts.fragment and port != 0
    if not plain or not _HOST.fullmatch(host) or (parts.username is not None and not _USER.fullmatch(parts.username)):
        raise InputError(f"The URL {url!r} is not one of a device; {_FORMS}.")
    return Address("ssh", host, parts.username, port)


def fingerprint(host_key: str) -> str:
    """The fingerprint of an OpenSSH public key line, as ssh-keygen prints it: "SHA256:...".

    Raises:
        InputError: the line is no key.
    """
    words = host_key.split()
    try:
        blob = base64.b64decode(words[1], validate=True)
        kind_length = int.from_bytes(blob[:4], "big")
        if len(words) != 2 or blob[4 : 4 + kind_length] != words[0].encode():
            raise ValueError
    except (ValueError, IndexError, binascii.Error):
        raise InputError(
            f"The host key {host_key[:60]!r} is not one; expected 'TYPE BASE64' as in an OpenSSH .pub file, "
            "without a comment. `edgenas device trust NAME` writes it."
        ) from None
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
