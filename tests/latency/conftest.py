"""Two kinds of tables: with made-up costs, which say `simulated`; and small ones that are really measured."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.device import Device
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.profiling.profiler import EMPTY, profile
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.calibration import Calibration
from edgenas.latency.table.certificate import Certificate, Network
from edgenas.model import MODELS, ConversionPool
from edgenas.space import MobileSpace
from tests.board import Board

IDENTITY = Identity(
    device="board",
    fingerprint="f" * 16,
    cpu="made up",
    cpu_cores=4,
    memory_mb=2048,
    os="none",
    kernel="0",
    firmware="",
    governor="performance",
    runtime="ai-edge-litert",
    runtime_version="2.3.0",
    delegate="XNNPACK",
    threads=1,
    cores=(0, 1),
    precision="int8",
    converter="tensorflow 2.21.0",
)


def certificate(errors: list[float]) -> Certificate:
    """Networks of 1 ms whose predictions are off by these shares; the intervals' by the same."""
    networks = tuple(Network(f"n{i}", 1.0, 1.0, 1.0 + error) for i, error in enumerate(errors))
    return Certificate(networks, networks)


@pytest.fixture(scope="session")
def simulate() -> Callable[[MobileSpace], LatencyTable]:
    """Makes a table for a space."""

    def make(space: MobileSpace) -> LatencyTable:
        rng = np.random.default_rng(0)
        return LatencyTable(
            identity=IDENTITY,
            source="simulated",
            reference=(str(space.smallest), 12.5),
            empty_us=1.25,
            entries={
                layer: Entry(*map(float, rng.uniform((0.1, 0, 90, 1), (80, 0.1, 120, 900)))) for layer in space.layers()
            },
            calibration=Calibration(
                {"sum": 1.1, "kernel5": -0.05}, 3.5, 0.0, 0.0, (Network(str(space.smallest), 1.0, 1.1, 0.9),)
            ),
            certificate=certificate([-0.04, 0.03, 0.02, -0.01, 0.0, 0.045, -0.06, 0.07, 0.08, -0.12]),
            provenance={"note": "made up"},
        )

    return make


# A small part of the space `tiny`, converted once: what tests on real devices measure.

SPACE = MobileSpace("tiny", (28, 28, 1), 10)
WRONG = 0.15  # what is further than this from a quiet measurement is a wrong number


def _small_networks(count: int) -> list[Architecture]:
    """Networks of three blocks each, of few kinds: 17 layers make them all."""
    rng = np.random.default_rng(0)
    networks: dict[Architecture, None] = {}
    while len(networks) < count:
        values = {name: options[0] for name, options in SPACE.choices.items()} | {"width": 1.0, "stem_stride": 2}
        for stage in (1, 2, 3):
            values[f"stage{stage}_block1_kernel"] = (3, 5)[rng.integers(2)]
            values[f"stage{stage}_block1_expansion"] = (1, 3)[rng.integers(2)]
        networks[SPACE.decode(values)] = None
    return list(networks)


@pytest.fixture(scope="session")
def small_plan() -> Plan:
    networks = _small_networks(26)
    layers = dict.fromkeys(layer for network in networks for layer in network.layers())
    return Plan(tuple(layers), tuple(networks[:8]), tuple(networks[8:20]), tuple(networks[20:]), networks[0])


@pytest.fixture(scope="session")
def converted(small_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder in which everything of the small plan is converted."""
    folder = tmp_path_factory.mktemp("project")
    with contextlib.chdir(folder), ConversionPool(MODELS, "int8") as pool:
        subjects = [*small_plan.layers, *small_plan.networks, EMPTY, small_plan.reference]
        wait([future for _, future in pool.submit(subjects) if future is not None])
    return folder


@pytest.fixture
def project(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own that shares the converted files."""
    (tmp_path / ".edgenas").mkdir()
    (tmp_path / ".edgenas" / "models").symlink_to(converted / ".edgenas" / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Peace:
    """The small plan, measured in peace: once, and again whenever a test wonders whether the machine has changed.

    A machine shared with others changes: layers by 20% beside whole networks, for half an hour, was seen. So a number
    is held against all that was measured in peace.
    """

    def __init__(self, project: Path, plan: Plan) -> None:
        self.project, self.plan = project, plan
        self.tables: list[LatencyTable] = []
        self.measure()

    def measure(self) -> LatencyTable:
        """One more table, of the machine as it is now."""
        with contextlib.chdir(self.project):
            device = Device("quiet", "local:", folder=str(self.project / "work"))
            self.tables.append(profile(device, SPACE, "int8", plan=self.plan))
        return self.tables[-1]

    def strays(
        self, read: Callable[[LatencyTable], Mapping[str, float]], found: Mapping[str, float]
    ) -> dict[str, float]:
        """What is further than WRONG from all that was measured in peace, over the nearest of it.

        Args:
            read: the same numbers of a table.
            found: the numbers in question; where any strays, the plan is measured once more.
        """
        if self._far(read, found):
            self.measure()
        return self._far(read, found)

    def _far(self, read: Callable[[LatencyTable], Mapping[str, float]], found: Mapping[str, float]) -> dict[str, float]:
        known = [read(table) for table in self.tables]
        lows = {key: min(values[key] for values in known) for key in found}
        highs = {key: max(values[key] for values in known) for key in found}
        ratios = {key: value / min(max(value, lows[key]), highs[key]) for key, value in found.items()}
        return {key: ratio for key, ratio in ratios.items() if abs(ratio - 1) > WRONG}


@pytest.fixture(scope="session")
def peace(small_plan: Plan, converted: Path) -> Peace:
    return Peace(converted, small_plan)


@pytest.fixture(scope="session")
def quiet(peace: Peace) -> LatencyTable:
    """The small plan's table, measured in peace."""
    return peace.tables[0]


@pytest.fixture
def make_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Board]]:
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> Board:
            return stack.enter_context(Board(tmp_path_factory.mktemp("board"), **options))  # type: ignore[arg-type]

        yield make


# Put into a board's environment: its runtime says the same of itself, but runs without XNNPACK; with a line `SIZE = N`
# before it, only models of that many bytes.
WITHOUT_XNNPACK = """
import os

try:
    from ai_edge_litert import interpreter
except ImportError:
    pass
else:
    begin = interpreter.Interpreter.__init__

    def without(self, *arguments, **options):
        kind = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        size = os.path.getsize(options.get("model_path") or os.devnull)
        if globals().get("SIZE", size) == size:
            options["experimental_op_resolver_type"] = kind
        begin(self, *arguments, **options)

    interpreter.Interpreter.__init__ = without
"""
