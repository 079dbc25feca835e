"""Mixed precision: the cheapest precision of each layer, by the tables of both."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.joined  # noqa: F401 -- a kind of block for branches
from edgenas.architecture import Architecture
from edgenas.errors import InputError
from edgenas.latency.table import Entry, LatencyTable, MissingLayersError
from edgenas.latency.table.calibration import Calibration
from edgenas.latency.table.mixed import fastest_mix
from tests.latency.conftest import IDENTITY

NETWORK = Architecture.parse(
    "input_8x8x1 conv_k3_s2_c8_relu6 mbconv_k3_e1_s1_c16_relu6 mbconv_k7_e3_s1_c16_relu6 head_c32_relu6 dense_n10"
)
PIXELS = 8 * 8
VALUES = [8 * 8 * 1, 4 * 4 * 8, 4 * 4 * 16, 4 * 4 * 16, 32]  # that each layer but the last one hands on


def table(precision: str, costs_us: list[float], offset_us: float = 5.0) -> LatencyTable:
    entries = {layer: Entry(us, 0.0, us) for layer, us in zip(NETWORK.layers(), costs_us, strict=True)}
    identity = dataclasses.replace(IDENTITY, precision=precision)
    return LatencyTable(identity, "simulated", ("n", 10.0), 1.0, entries, Calibration(offset_us=offset_us))


def test_a_layer_that_is_slow_in_int8_stays_in_float32() -> None:
    """A change of precision costs 0.1 us a value, as the image's pixels do, and there are 256 on each side of it."""
    int8 = [6.4, 10, 10, 200, 10, 1.0]
    mix = fastest_mix(table("int8", int8), table("float32", [6.4, 60, 60, 40, 60, 1.0]), NETWORK)
    assert mix.float_layers == (3,)
    assert mix.latency_ms == pytest.approx((5 + sum(int8) - 200 + 40 + 2 * 256 * 0.1) / 1000)
    assert (mix.int8_ms, mix.float32_ms) == (pytest.approx(0.2424), pytest.approx(0.2324))
    assert mix.pays
    again = fastest_mix(table("int8", int8), table("float32", [6.4, 10, 10, 40, 10, 1.0]), NETWORK)
    assert again.float_layers
    assert not again.pays, "float32 throughout is faster still"


def test_where_int8_is_the_fastest_nothing_changes() -> None:
    mix = fastest_mix(table("int8", [1.0] * 6), table("float32", [1.01] * 6), NETWORK)
    assert (mix.float_layers, mix.latency_ms, mix.pays) == ((), pytest.approx(0.011), False)


@settings(max_examples=60, deadline=None)
@given(*[st.lists(st.floats(0.1, 100), min_size=6, max_size=6)] * 2)
def test_no_other_choice_is_cheaper(int8: list[float], float32: list[float]) -> None:
    """Against all 16 ways through four layers."""
    change = max(int8[0], float32[0]) / PIXELS
    costs = np.array([int8, float32])

    def cost(way: tuple[int, ...]) -> float:
        changes = [change * values for values, a, b in zip(VALUES, way, way[1:], strict=False) if a != b]
        return float(sum(costs[precision, layer] for layer, precision in enumerate(way)) + sum(changes))

    best = min((cost((0, *way, 0)), way) for way in itertools.product((0, 1), repeat=4))
    mix = fastest_mix(table("int8", int8), table("float32", float32), NETWORK)
    chosen = tuple(int(layer in mix.float_layers) for layer in range(6))
    assert mix.latency_ms * 1000 == pytest.approx(5 + best[0])
    assert cost(chosen) == pytest.approx(best[0])
    assert chosen[0] == chosen[-1] == 0, "what an app gives and gets is uint8"


def test_what_branches_or_was_not_measured_is_refused() -> None:
    both = table("int8", [1.0] * 6), table("float32", [1.0] * 6)
    branched = Architecture.parse(
        "input_8x8x1 conv_k3_s2_c8_relu6 conv_k1_s1_c8_relu6 joined@1,2 head_c32_relu6 dense_n10"
    )
    with pytest.raises(InputError, match=f"for chains of layers; the network {branched.id} branches"):
        fastest_mix(*both, branched)
    with pytest.raises(MissingLayersError, match="--precision float32"):
        fastest_mix(both[0], dataclasses.replace(both[1], entries=dict(list(both[1].entries.items())[:5])), NETWORK)
