"""Benches whose times follow a formula: nothing is converted, nothing is measured, nothing waits."""

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from edgenas.architecture import Architecture, Layer
from edgenas.device import Device, Runtime
from edgenas.errors import DeviceError
from edgenas.latency.profiling import adopting, benches, checking, profiler
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.profiling.profiler import EMPTY, Subject
from edgenas.latency.profiling.rounds import Ratio, Rounds
from edgenas.space import MobileSpace

SPACE = MobileSpace("tiny", (28, 28, 1), 10)
EMPTY_US, EMPTY_KB, COLD, HALF_WIDTH = 0.5, 30.0, 2.0, 0.004
Factor = Callable[[Subject, int], float]  # (subject, how often it was measured before) -> times as long
PATHS: dict[str, Subject] = {}  # name of the file -> what it holds


def layer_us(layer: Layer) -> float:
    """What a layer costs: the empty model's time taken off."""
    return 1.0 + layer.macs / 3e4


def true_us(subject: Subject) -> float:
    """What a file takes: a network 5% more than its layers, and 5 us."""
    if isinstance(subject, Architecture):
        return 5.0 + 1.05 * sum(map(layer_us, subject.layers()))
    return EMPTY_US + (0.0 if subject == EMPTY else layer_us(subject))


def kept_kb(subject: Subject) -> float:
    return EMPTY_KB + (0.0 if subject == EMPTY else subject.parameters / 1024)


def make_plan() -> Plan:
    """60 networks of `tiny`, and their layers."""
    rng = np.random.default_rng(0)
    networks: dict[Architecture, None] = {}
    while len(networks) < 60:
        values = {name: options[0] for name, options in SPACE.choices.items()} | {"width": 1.0, "stem_stride": 2}
        for stage in (1, 2, 3):
            values[f"stage{stage}_block1_kernel"] = (3, 5, 7)[rng.integers(3)]
            values[f"stage{stage}_block1_expansion"] = (1, 3, 6)[rng.integers(3)]
        networks[SPACE.decode(values)] = None
    found = list(networks)
    layers = tuple(dict.fromkeys(layer for network in found for layer in network.layers()))
    return Plan(layers, tuple(found[:30]), tuple(found[30:50]), tuple(found[50:]), found[0])


class Pool:
    """In the place of `ConversionPool`."""

    busy_s = 0.0
    lab: "Lab"

    def __init__(self, folder: Path, precision: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def submit(self, subjects: Sequence[Subject]) -> list[tuple[Path, None]]:
        self.lab.did.append("convert")
        names = [f"{zlib.crc32(str(subject).encode())}.tflite" for subject in subjects]
        PATHS.update(zip(names, subjects, strict=True))
        return [(Path(name), None) for name in names]


class Bench:
    """In the place of a bench.

    Attributes:
        asked: what was measured, batch by batch, the reference left out.
        factor: how many times as long as `true_us` something takes.
        batches: after so many the link breaks.
        fails: what does not run.
        info: what the device says of itself.
    """

    start_s = sending_s = 0.0

    def __init__(self, device: Device, lab: "Lab") -> None:
        self.device, self._lab = device, lab
        self.asked: list[list[Subject]] = []
        self.factor: Factor = lambda subject, before: 1.0
        self.batches: int | None = None
        self.fails: set[Subject] = set()
        self.reachable, self.shares_host, self.runtime_version = True, False, "2.3.0"
        self.speed = 1.0  # of all of it
        self.info = SimpleNamespace(
            fingerprint="f" * 12, cpu="made up", cores=4, memory_total_kb=2 << 20, os="none", kernel="0", firmware=None,
            governor=None,
        )  # fmt: skip

    def __enter__(self) -> Self:
        if not self.reachable:
            raise DeviceError(f"{self.device.name} cannot be reached.")
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def delegate(self, precision: str) -> str:
        return "XNNPACK"

    def layers(self) -> list[Subject]:
        """Layers that were measured, each as often as it was."""
        return [each for batch in self.asked for each in batch if isinstance(each, Layer) and each != EMPTY]

    def measure(self, models: Sequence[Path], reference: Path) -> Rounds:
        if self.batches is not None and len(self.asked) >= self.batches:
            raise DeviceError(f"{self.device.name}: the link broke.")
        subjects = [PATHS[path.name] for path in models]
        before = [sum(batch.count(subject) for batch in self.asked) for subject in subjects]
        self.asked.append(subjects)
        self._lab.did.append(self.device.name)
        self.reference_us = self.speed * true_us(PATHS[reference.name])
        failed = {place: "invalid model" for place, subject in enumerate(subjects) if subject in self.fails}
        us = [self.speed * true_us(s) * self.factor(s, n) for s, n in zip(subjects, before, strict=True)]
        shares = [each / self.reference_us for each in us]
        ratios = tuple(
            None if place in failed else Ratio(shares[place], HALF_WIDTH, COLD * shares[place], kept_kb(subject))
            for place, subject in enumerate(subjects)
        )
        return Rounds(
            visits_us=tuple(np.full(30, each) for each in us), failed=failed, reference_us=self.reference_us,
            visits=len(subjects), interrupted=2, drifted=1, busy_s=1.0, ratios=ratios,
        )  # fmt: skip


class Lab:
    """Devices by name, each with its bench; a bench that is made anew has forgotten what it was asked."""

    def __init__(self) -> None:
        self.benches: dict[str, Bench] = {}
        self.did: list[str] = []  # "convert", or the device that measured, in order

    def device(self, name: str, cores: tuple[int, ...] | None = None, **says: Any) -> Device:
        """A device with a new bench; `says` are attributes of it, and "cpu" of what it says of itself."""
        bench = self.benches[name] = Bench(Device(name, f"ssh://{name}", runtime=Runtime(cores=cores)), self)
        bench.info.cpu = says.pop("cpu", "made up")
        for attribute, value in says.items():
            assert hasattr(bench, attribute)
            setattr(bench, attribute, value)
        return bench.device


class Later(Future[Rounds]):
    """Work that begins when somebody waits for it."""

    def __init__(self, work: Callable[[], Rounds]) -> None:
        super().__init__()
        self._work = work

    def run(self) -> None:
        if not self.done():
            try:
                self.set_result(self._work())
            except DeviceError as error:
                self.set_exception(error)

    def result(self, timeout: float | None = None) -> Rounds:
        self.run()
        return super().result(timeout)


class Hands:
    """In the place of the profiler's threads: who starts waits to be waited for.

    Attributes:
        most: at the same time.
    """

    most = 0

    def __init__(self, count: int) -> None:
        self._begun: list[Later] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def submit(self, work: Callable[..., Rounds], *arguments: Any) -> Later:
        self._begun.append(Later(lambda: work(*arguments)))
        Hands.most = max(Hands.most, sum(not each.done() for each in self._begun))
        return self._begun[-1]

    @staticmethod
    def wait(futures: Sequence[Later], return_when: str = "") -> tuple[set[Later], set[Later]]:
        """The first of them, or all."""
        some = list(futures)[: 1 if return_when == FIRST_COMPLETED else None]
        for each in some:
            each.run()
        return set(some), set(futures) - set(some)


@contextlib.contextmanager
def scripted_lab(folder: Path) -> Iterator[Lab]:
    """The profiler and the check have scripted benches in a project's folder; a batch is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lab = Lab()
        patch.setattr(Pool, "lab", lab, raising=False)
        for module in (profiler, checking):
            patch.setattr(module, "ConversionPool", Pool)
        for module in (benches, checking):
            patch.setattr(module, "open_bench", lambda device, *_: lab.benches[device.name])
        patch.setattr(profiler, "BATCH", 8)
        patch.setattr(checking, "BATCH", 8)
        patch.setattr(adopting, "LEAST_LAYERS", 20)
        yield lab
