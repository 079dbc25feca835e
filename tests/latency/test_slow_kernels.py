"""Depthwise kernels that leave the device's fast kernels, as a table tells, and its certificate without them."""

import dataclasses
from collections.abc import Callable

import pytest

from edgenas.architecture import MBConv
from edgenas.latency.table import Entry, LatencyTable
from edgenas.latency.table.certificate import Certificate, Network
from edgenas.space import MobileSpace
from tests.latency.conftest import SPACE


@pytest.fixture(scope="module")
def table(simulate: Callable[[MobileSpace], LatencyTable]) -> LatencyTable:
    return simulate(SPACE)


def by_kernel(
    table: LatencyTable, costs: dict[int, float], odd: Callable[[int], float] = lambda number: 1.0
) -> LatencyTable:
    """The table with blocks that cost so many microseconds by their kernel; `odd` is a factor by the block's number."""
    kernels = [layer for layer in table.entries if isinstance(layer.block, MBConv)]
    entries = {
        layer: Entry(costs[layer.block.kernel] * odd(number), 0.0, None)
        for number, layer in enumerate(kernels)
        if isinstance(layer.block, MBConv) and layer.block.kernel in costs
    }
    return dataclasses.replace(table, entries=entries)


@pytest.mark.parametrize(
    ("costs", "slow"),
    [
        ({3: 9.0, 5: 25.0, 7: 49.0}, ()),  # what their area explains
        ({3: 9.0, 5: 24.0, 7: 50.0}, (7,)),
        ({3: 9.0, 5: 26.0, 7: 50.0}, (5, 7)),
        ({3: 9.0, 5: 9.5, 7: 10.0}, ()),
        ({5: 25.0, 7: 50.0}, (7,)),  # the smallest there is
        ({7: 500.0}, ()),
        ({}, ()),
    ],
)
def test_a_kernel_is_slow_that_costs_more_than_its_area_explains(
    table: LatencyTable, costs: dict[int, float], slow: tuple[int, ...]
) -> None:
    assert by_kernel(table, costs).slow_kernels() == slow


def test_a_kernel_is_slow_by_most_of_its_layers(table: LatencyTable) -> None:
    """A few odd layers make none slow, nor one fast."""
    fast, slow = {3: 9.0, 5: 20.0, 7: 40.0}, {3: 9.0, 5: 20.0, 7: 60.0}
    assert by_kernel(table, fast, lambda number: 3.0 if number % 7 == 0 else 1.0).slow_kernels() == ()
    assert by_kernel(table, slow, lambda number: 0.5 if number % 7 == 0 else 1.0).slow_kernels() == (7,)


def test_the_certificate_is_shown_without_networks_of_slow_kernels(table: LatencyTable) -> None:
    large = SPACE.decode({name: options[-1] for name, options in SPACE.choices.items()})
    networks = (*(Network(str(SPACE.smallest), 1.0, 1.0, 1.02) for _ in range(3)), Network(str(large), 9.0, 9.0, 8.0))
    certified = dataclasses.replace(table, certificate=Certificate(networks, networks))
    summary = by_kernel(certified, {3: 9.0, 5: 24.0, 7: 90.0}).certificate_summary()
    assert summary is not None
    assert (summary["networks"], summary["slow_kernels"]) == (4, [7])
    assert summary["without_slow_kernels"]["networks"] == 3
    assert summary["without_slow_kernels"]["mape"] == pytest.approx(0.02)
    summary = by_kernel(certified, {3: 9.0, 5: 24.0, 7: 40.0}).certificate_summary()
    assert summary is not None and (summary["slow_kernels"], summary["without_slow_kernels"]) == ([], None)
