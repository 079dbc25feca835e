"""A machine and models whose times are scripted, and agents whose answers are: no clock, no TensorFlow, no process."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgenas.device import Device, DeviceInfo, RuntimeState, adb, session, ssh

FAR = Device("far", "ssh://far")
BARE = (RuntimeState("ai-edge-litert", None, "not installed"), RuntimeState("tflite-runtime", None, "not installed"))
PI = DeviceInfo(
    agent=1, pid=1, python="3.11.2", machine="aarch64", system="Linux", libc="glibc 2.36", bits=64, cpu="Cortex-A72",
    cores=4, memory_total_kb=4_000_000, memory_available_kb=3_000_000, disk_free_kb=9_000_000, boot_id="x", kernel="6",
    os="Debian 12", firmware=None, governor=None, hostname="pi", numpy=None, runtimes=BARE, accelerators=(),
)  # fmt: skip
COLD = 3.0  # with the caches full of other data an inference takes so many times as long


class Machine:
    """In the place of `edgenas.device.agent.machine`: time goes by when a model runs, and in sleep.

    Attributes:
        did: what was done to it, in order: "fill", a model's name for each inference, ("sleep", seconds).
    """

    def __init__(self) -> None:
        self.us = self.away_us = 0.0
        self.lost = 0
        self.did: list[Any] = []
        self.kb: Iterator[int | None] = iter(())
        self.rss = {"VmRSS": 1000, "VmHWM": 1000}
        self._filled = False

    def now_us(self) -> float:
        return self.us

    def on_core_us(self) -> float:
        return self.us - self.away_us

    def lost_core(self) -> int:
        return self.lost

    def sleep(self, seconds: float) -> None:
        self.us += seconds * 1e6
        self.did.append(("sleep", round(seconds, 9)))

    def fill_caches(self) -> None:
        self._filled = True
        self.did.append("fill")

    def anonymous_kb(self) -> int | None:
        return next(self.kb, 0)

    def rss_kb(self, key: str) -> int:
        return self.rss[key]

    def run(self, name: str, us: float, away_us: float = 0.0) -> None:
        """An inference of so long, and so long of it without a core."""
        self.us += us * (COLD if self._filled else 1.0) + away_us
        self.away_us += away_us
        self.lost += away_us > 0
        self._filled = False
        self.did.append(name)


class Collector:
    """In the place of `gc`: what was done to it. The real one takes long in a process that holds TensorFlow."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def collect(self) -> None:
        self.did.append("collect")

    def disable(self) -> None:
        self.did.append("disable")


class Interpreter:
    """A runtime's interpreter; its inferences take what `times` says: microseconds, or (microseconds, without a core).

    The last of them holds for ever.
    """

    def __init__(self, machine: Machine, name: str, times: list[Any]) -> None:
        self._machine, self._name, self._times = machine, name, [*times]
        self.tensors: dict[int, np.ndarray] = {}

    def allocate_tensors(self) -> None:
        self._machine.us += 70

    def get_input_details(self) -> list[dict[str, Any]]:
        kinds = (np.float32, np.int8, np.uint8, np.int32)
        return [
            {"index": index, "shape": np.array([1, 500]), "dtype": kind, "quantization": (0.5, -3)}
            for index, kind in enumerate(kinds)
        ]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"index": 9, "shape": np.array([1, 4]), "dtype": np.int8, "quantization": (0.25, 7)}]

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        self.tensors[index] = values

    def invoke(self) -> None:
        took = self._times.pop(0) if len(self._times) > 1 else self._times[0]
        self._machine.run(self._name, *(took if isinstance(took, tuple) else (took,)))


def runtime(machine: Machine, made: dict[str, Interpreter], **times: list[Any]) -> SimpleNamespace:
    """A runtime's module that knows these models; `made` gets their interpreters."""

    def load(model_path: str, num_threads: int) -> Interpreter:
        made[model_path] = Interpreter(machine, model_path, times[model_path])
        return made[model_path]

    return SimpleNamespace(Interpreter=load)


class Visited:
    """A model of the rounds; its visits are scripted: microseconds, or (microseconds, True) where it lost its core.

    The last of them holds for ever.
    """

    def __init__(self, *visits: float | tuple[float, bool], visited: Callable[[], None] = lambda: None) -> None:
        self._visits = [visit if isinstance(visit, tuple) else (visit, False) for visit in visits]
        self._visited = visited
        self.cold_us = 0.0
        self.first_us, self.load_us, self.resident_kb, self.repeats = 1.0, 2.0, 3, 4

    def visit(self, warm: bool = True) -> tuple[float, bool]:
        assert warm, "the caches are someone else's at each visit of a round"
        us, lost = self._visits.pop(0) if len(self._visits) > 1 else self._visits[0]
        self.cold_us = COLD * us
        self._visited()
        return us, lost


class Says:
    """A process on the device that says these lines, one at a time, whatever it hears, and then ends.

    Attributes:
        heard: the lines that it was sent.
    """

    def __init__(self, *lines: str, ends: str = "\n") -> None:
        self._said = [f"{line}{ends}".encode() for line in lines]
        self.heard: list[str] = []

    def send(self, data: bytes) -> None:
        self.heard += data.decode().splitlines()

    def receive(self, timeout_s: float) -> bytes:
        return self._said.pop(0) if self._said else b""

    def errors(self) -> str:
        return ""

    def close(self) -> None:
        pass


class Talker:
    """An agent that always has something to say, the same again and again; each piece of it takes so many seconds."""

    def __init__(self, piece: bytes, every_s: float, patch: pytest.MonkeyPatch) -> None:
        self.s, self.said_bytes = 0.0, 0
        self._piece, self._every_s = piece, every_s
        for module in (session, ssh, adb):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.s))

    def receive(self, timeout_s: float) -> bytes:
        assert self.said_bytes < 1 << 30, "it is listened to for ever"
        self.s += self._every_s
        self.said_bytes += len(self._piece)
        return self._piece

    def send(self, data: bytes) -> None:
        pass

    def errors(self) -> str:
        return ""

    def close(self) -> None:
        pass
