"""A table with made-up costs: it says `simulated`, and nothing is claimed of it but how it is read and added up."""

from collections.abc import Callable

import numpy as np
import pytest

from edgenas.latency.calibration import Calibration
from edgenas.latency.certificate import Certificate, Network
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.space import MobileSpace

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
            entries={layer: Entry(*map(float, rng.uniform((0.1, 0, 1), (80, 0.1, 900)))) for layer in space.layers()},
            calibration=Calibration(
                {"sum": 1.1, "kernel5": -0.05}, 3.5, (Network(str(space.smallest), 1.0, 1.1, 0.9),)
            ),
            certificate=certificate([-0.04, 0.03, 0.02, -0.01, 0.0, 0.045, -0.06, 0.07, 0.08, -0.12]),
            provenance={"note": "made up"},
        )

    return make
