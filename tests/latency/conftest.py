"""A table with made-up costs: it says `simulated`, and nothing is claimed of it but how it is read and added up."""

from collections.abc import Callable

import numpy as np
import pytest

from edgenas.latency.table import Calibration, Certificate, Entry, Identity, LatencyTable, Network
from edgenas.space import MobileSpace

IDENTITY = Identity(
    device="board",
    fingerprint="f" * 16,
    cpu="made up",
    runtime="ai-edge-litert",
    runtime_version="2.3.0",
    delegate="XNNPACK",
    threads=1,
    cores=(0, 1),
    precision="int8",
    converter="tensorflow 2.21.0",
)


def certificate(errors: list[float]) -> Certificate:
    """Networks of 1 ms whose predictions are off by these shares."""
    return Certificate(tuple(Network(f"n{i}", 1.0, 1.01, 1.0 + error) for i, error in enumerate(errors)))


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
            entries={layer: Entry(*map(float, rng.uniform((0.1, 0), (80, 0.1)))) for layer in space.layers()},
            calibration=Calibration(1.1, 3.5, (Network(str(space.smallest), 1.0, 1.1, 0.9),)),
            certificate=certificate([-0.04, 0.03, 0.02, -0.01, 0.0, 0.045, -0.06, 0.07, 0.08, -0.12]),
            provenance={"note": "made up"},
        )

    return make
