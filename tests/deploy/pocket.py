"""Phones without adb: their shells and files are real, what benchmark_model says of a model is what a test says.

For what shipping does there, and for the scripts that it gives to their shells; with links, without, and with Android's
own shell and tools. What adb makes of all that is tested with adb: test_phones.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgenas.device import Completed, Device, Phone, Runtime
from edgenas.device.connection import LocalConnection, LocalProcess, Process
from edgenas.errors import UnreachableError
from tests.adb.lab import GETPROP, PROPERTIES, RUN_AS, LabPhone

_SAYS = """count=4 first={us} curr={us} min={us} max={us} avg={us} std=0
count=50 first={us} curr={us} min={us} max={us} avg={us} std=0
Inference timings in us: Init: 500, First inference: {us}, Warmup (avg): {us}, Inference (avg): {us}"""
KINDS = ("link", "file", "android")
# A benchmark_model that starts at once; a model takes it a microsecond for each 100 of its bytes.
QUICK_TOOL = f"""#!/bin/sh
for word; do case $word in
    --graph=*) graph=${{word#--graph=}} ;;
    --help) echo "Flags: --graph="; exit 1 ;;
esac; done
us=$(($(wc -c < "$graph") / 100))
echo "Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate."
echo "{_SAYS.replace("{us}", "$us")}"
"""


class Pocket(LabPhone):
    """A phone that is reached by nobody but this process.

    Args:
        folder: that is the phone.
        kind: "link", "file" (its file system has no links), or "android".

    Attributes:
        us: what an inference takes there, by the number of bytes of its model; of others, the first one's.
        flags: that benchmark_model was given, of each run.
    """

    def __init__(self, folder: Path, kind: str = "link") -> None:
        self.root, self.serial = folder, folder.name
        self.home, self.bin = folder / "data" / "local" / "tmp", folder / "bin"
        for path in (self.home, self.bin, folder / "props"):
            path.mkdir(parents=True)
        for name, value in PROPERTIES.items():
            (folder / "props" / name).write_text(f"{value}\n")
        self.replace("getprop", GETPROP.partition("\n")[2])
        self.replace("run-as", RUN_AS.partition("\n")[2])
        if kind == "android":
            self._use_android_s_tools()
        if kind == "file":
            self.replace("ln", 'echo "ln: Operation not permitted" >&2; exit 1')
        self.tool = folder / "benchmark_model"
        self.tool.write_text("#!/bin/sh\n")
        path = str(self.bin) if kind == "android" else f"{self.bin}:/usr/bin:/bin"
        self.environment = {"PHONE": str(folder), "PATH": path, "HOME": "/", "TMPDIR": str(self.home)}
        self.us: dict[int | None, float] = {None: 10.0}
        self.flags: list[list[str]] = []
        self.plugged = True

    def device(self, name: str = "phone", **changes: Any) -> Device:
        """The phone as a device."""
        runtime = changes.pop("runtime", None) or Runtime("benchmark-model", benchmark_model=str(self.tool))
        return Device(name, f"adb:{self.serial}", runtime=runtime, **({"folder": "edgenas"} | changes))

    def benchmark(self, model: str, flags: list[str]) -> Completed:
        """What benchmark_model says."""
        self.flags.append(flags)
        us = self.us.get((self.home / model).stat().st_size, self.us[None])
        return Completed(0, _SAYS.format(us=us), "")


class Wire(LocalConnection):
    """In the place of adb's connection."""

    def __init__(self, device: Device, phone: Pocket) -> None:
        super().__init__(device)
        self.phone = phone

    @property
    def home(self) -> str:
        return str(self.phone.home)

    def path(self, remote: str) -> str:
        self._look()
        return super().path(remote)

    def _look(self) -> None:
        if not self.phone.plugged:
            raise UnreachableError(f"{self.device.name}: no phone {self.phone.serial} is attached.")

    def _argv(self, argv: list[str]) -> list[str]:
        self._look()
        return ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in self.phone.environment.items()), *argv]

    def run(self, argv: list[str], timeout_s: float = 30, input: bytes | None = None) -> Completed:  # noqa: A002
        return super().run(self._argv(argv), timeout_s, input)

    def start(self, argv: list[str]) -> Process:
        return LocalProcess(self._argv(argv), self.home)


def connecting(phones: dict[str, Pocket]) -> Callable[[Device], Wire]:
    """In the place of `connect`."""
    return lambda device: Wire(device, phones[device.url.removeprefix("adb:")])


def benchmark(phone: Phone, model: str, flags: list[str], timeout_s: float) -> Completed:
    """In the place of `Phone.benchmark`."""
    assert phone.tool, "it is sent"
    wire = phone.connection
    assert isinstance(wire, Wire)
    wire._look()
    return wire.phone.benchmark(model, flags)
