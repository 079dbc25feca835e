"""What costs nothing to know of a candidate, and the limits on it."""

import dataclasses
import itertools

import numpy as np
import pytest

from edgenas.errors import InputError
from edgenas.latency.memory import memory_of_codes
from edgenas.latency.table import LatencyTable
from edgenas.space import Codes, MobileSpace
from edgenas.strategy import Limits
from edgenas.strategy.objectives import FreeObjectives

COLUMNS = {"latency_ms": "latency_high_ms", "arena_kb": "arena_kb", "model_kb": "model_kb",
           "peak_memory_kb": "peak_memory_kb"}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(space: MobileSpace) -> Codes:
    return space.sample(np.random.default_rng(3), 200)


@pytest.fixture(scope="module")
def values(space: MobileSpace, table: LatencyTable, drawn: Codes) -> dict[str, np.ndarray]:
    return FreeObjectives(space, table, "int8", Limits()).values(drawn)


def test_values_are_those_of_table_and_memory(
    space: MobileSpace, table: LatencyTable, drawn: Codes, values: dict[str, np.ndarray]
) -> None:
    factor = table.interval_factor(0.9)
    latency = table.estimate_codes_ms(space, drawn)
    assert factor > 1
    np.testing.assert_allclose(values["latency_ms"], latency)
    np.testing.assert_allclose(values["latency_high_ms"], latency * factor)
    np.testing.assert_allclose(values["latency_low_ms"], latency / factor)
    for name, column in memory_of_codes(space, drawn, "int8").items():
        np.testing.assert_array_equal(values[name], column)
    assert not (values["model_kb"] == memory_of_codes(space, drawn, "float32")["model_kb"]).any()


def test_the_coverage_that_is_asked_for_widens_the_interval(
    space: MobileSpace, table: LatencyTable, drawn: Codes
) -> None:
    for coverage in (0.5, 0.9):
        found = FreeObjectives(space, table, "int8", Limits(coverage=coverage)).values(drawn)
        np.testing.assert_allclose(
            found["latency_high_ms"], found["latency_ms"] * table.interval_factor(coverage), rtol=1e-12
        )
    assert table.interval_factor(0.5) < table.interval_factor(0.9)


def test_a_limit_holds_the_upper_end_of_the_interval(
    space: MobileSpace, table: LatencyTable, drawn: Codes, values: dict[str, np.ndarray]
) -> None:
    most = float(np.median(values["latency_high_ms"]))
    excess = FreeObjectives(space, table, "int8", Limits(max_latency_ms=most)).excess(drawn)
    np.testing.assert_allclose(excess, values["latency_high_ms"] / most - 1)


@pytest.mark.parametrize("names", [*itertools.combinations(COLUMNS, 2), tuple(COLUMNS)], ids=" and ".join)
def test_every_limit_counts(
    names: tuple[str, ...], space: MobileSpace, table: LatencyTable, drawn: Codes, values: dict[str, np.ndarray]
) -> None:
    """The one that is broken most, whichever it is: a network keeps its limits where it keeps all of them."""
    most = {name: float(np.median(values[COLUMNS[name]])) for name in names}
    limits = Limits(**{f"max_{name}": value for name, value in most.items()})
    excess = FreeObjectives(space, table, "int8", limits).excess(drawn)
    each = np.array([values[COLUMNS[name]] / value - 1 for name, value in most.items()])
    np.testing.assert_allclose(excess, each.max(axis=0))
    alone = [(each[number] > 0) & (np.delete(each, number, axis=0) <= 0).all(axis=0) for number in range(len(names))]
    assert any(broken.any() for broken in alone), "some network breaks one of them alone"
    assert ((excess <= 0) == (each <= 0).all(axis=0)).all()


def test_no_limit_is_never_broken(space: MobileSpace, table: LatencyTable, drawn: Codes) -> None:
    free = FreeObjectives(space, table, "int8", Limits())
    assert (free.excess(drawn) == -np.inf).all()
    assert (free.anchor == space.smallest_code).all()


def test_a_network_is_found_that_keeps_limits_which_the_smallest_breaks(
    space: MobileSpace, slow_stem: LatencyTable
) -> None:
    free = FreeObjectives(space, slow_stem, "int8", Limits(max_latency_ms=4.0))
    assert free.excess(space.smallest_code[None])[0] > 0
    assert free.excess(free.anchor[None])[0] <= 0
    assert space.values(free.anchor)["stem_stride"] == 1


def test_each_limit_that_is_too_tight_is_named_with_what_can_be_reached(
    space: MobileSpace, table: LatencyTable
) -> None:
    with pytest.raises(InputError) as caught:
        _ = FreeObjectives(space, table, "int8", Limits(max_latency_ms=1e-3, max_model_kb=1, max_arena_kb=1e6)).anchor
    said = str(caught.value)
    assert "--max-latency-ms 0.001 (the nearest" in said and "--max-model-kb 1 (the nearest" in said
    assert "arena" not in said
    reachable = [float(part.split(")")[0]) for part in said.split("value is ")[1:]]
    loose = FreeObjectives(space, table, "int8", Limits(max_latency_ms=reachable[0], max_model_kb=reachable[1]))
    assert loose.excess(space.smallest_code[None])[0] <= 0
    np.testing.assert_allclose(loose.excess(space.smallest_code[None])[0], 0, atol=0.01)


def test_a_limit_on_latency_needs_a_certificate(space: MobileSpace, table: LatencyTable, drawn: Codes) -> None:
    bare = dataclasses.replace(table, certificate=None)
    with pytest.raises(InputError, match="needs a table with a certificate"):
        FreeObjectives(space, bare, "int8", Limits(max_latency_ms=1))
    found = FreeObjectives(space, bare, "int8", Limits(max_model_kb=1)).values(drawn)
    for end in ("latency_low_ms", "latency_high_ms"):
        np.testing.assert_array_equal(found[end], found["latency_ms"])


def test_one_row_by_name(space: MobileSpace, table: LatencyTable, drawn: Codes, values: dict[str, np.ndarray]) -> None:
    described = FreeObjectives(space, table, "int8", Limits()).describe(drawn[7])
    assert described == pytest.approx({name: column[7] for name, column in values.items()})


def test_what_a_space_spans_on_a_device(space: MobileSpace, table: LatencyTable) -> None:
    span = FreeObjectives(space, table, "int8", Limits()).span()
    free = FreeObjectives(space, table, "int8", Limits(max_latency_ms=span.half_ms))
    kept = free.excess(space.sample(np.random.default_rng(7), 1000)) <= 0
    assert 0.45 < kept.mean() < 0.55, "half of the networks keep it"
    assert span.least_ms < span.half_ms < span.most_ms
    assert span.least_ms == pytest.approx(free.values(space.smallest_code[None])["latency_high_ms"][0])
    assert "half of them keep --max-latency-ms" in str(span)
