"""What networks of a table tell of the state that a device is in."""

import dataclasses
import itertools
import math

import pytest

from edgenas.latency.profiling.anchors import ANCHORS, anchors_of, state_of
from edgenas.latency.profiling.rounds import Ratio
from edgenas.latency.table import Identity, LatencyTable
from edgenas.latency.table.calibration import Calibration
from edgenas.latency.table.certificate import Network

IDENTITY = Identity(**{
    field.name: 1 if field.type == "int" else None if "None" in str(field.type) else "x"
    for field in dataclasses.fields(Identity)
})  # fmt: skip
NETWORKS = tuple(Network(f"n{number}", float(number), float(number), float(number)) for number in range(60, 0, -1))
REFERENCE_US = 200.0


def table(networks: tuple[Network, ...] = NETWORKS) -> LatencyTable:
    calibration = Calibration(networks=networks)
    return LatencyTable(IDENTITY, "measured", ("reference", REFERENCE_US), 0.1, {}, calibration)


def ratios(anchors: list[Network], *factors: float) -> list[Ratio]:
    """Each anchor taking so many times what it took."""
    times = zip(anchors, [*factors, *[factors[-1]] * len(anchors)], strict=False)
    return [Ratio(anchor.truth_ms * 1000 / REFERENCE_US * factor, 0.0, 1.0, None) for anchor, factor in times]


def test_anchors_are_spread_over_the_times() -> None:
    times = [anchor.truth_ms for anchor in anchors_of(table())]
    assert (times[0], times[-1], len(times)) == (1, 60, ANCHORS)
    assert times == sorted(times)
    assert max(b - a for a, b in itertools.pairwise(times)) <= 6


@pytest.mark.parametrize("factor", [0.97, 1.0, 1.03])
def test_what_all_of_them_have_moved_by_is_the_state_and_one_odd_one_is_not(factor: float) -> None:
    anchors = anchors_of(table())
    assert state_of(table(), anchors, ratios(anchors, factor)) == pytest.approx(factor)
    assert state_of(table(), anchors, ratios(anchors, 3.0, factor)) == pytest.approx(factor)


def test_a_stale_table_is_not_excused() -> None:
    anchors = anchors_of(table())
    assert state_of(table(), anchors, ratios(anchors, 1.4)) == pytest.approx(1.05)
    assert state_of(table(), anchors, ratios(anchors, 0.6)) == pytest.approx(0.95)


def test_a_table_without_a_calibration_has_no_anchors() -> None:
    bare = table(())
    assert anchors_of(bare) == []
    assert math.isclose(state_of(bare, [], []), 1.0)
