"""Made-up tables, which say `simulated`; scripted devices; and a small plan for agents on a virtual machine."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgenas.device import Device
from edgenas.latency.profiling import checking, explaining, measuring, profiler
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.profiling.profiler import profile
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.calibration import Calibration
from edgenas.latency.table.certificate import Certificate, Network
from edgenas.space import MobileSpace
from tests.board import Board
from tests.latency import made
from tests.latency.scripted import Lab, make_plan, scripted_lab

SPACE = MobileSpace("tiny", (28, 28, 1), 10)
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
    networks = tuple(Network(f"input_8x8x1 dense_n{i + 2}", 1.0, 1.0, 1.0 + error) for i, error in enumerate(errors))
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


# Devices whose times follow a formula


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with scripted_lab(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Of what scripted devices measure."""
    return make_plan()


# Agents on a virtual machine


def in_project(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A project whose models were converted before."""
    patch.chdir(folder)
    for module in (profiler, checking, measuring, explaining):
        patch.setattr(module, "ConversionPool", made.MadePool)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own."""
    in_project(tmp_path, monkeypatch)
    return tmp_path


def here(project: Path) -> Device:
    """This machine as a device."""
    return Device("quiet", "local:", folder=str(project / "work"))


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    """The small plan's table of this machine, as an agent measured it while nothing befell it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("quiet")
        in_project(folder, patch)
        return profile(here(folder), made.SPACE, "int8", plan=made.PLAN)


@pytest.fixture
def make_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Board]]:
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> Board:
            return stack.enter_context(Board(tmp_path_factory.mktemp("board"), **options))  # type: ignore[arg-type]

        yield make
