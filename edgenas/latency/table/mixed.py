"""Mixed precision: which layers of an int8 network run faster in float32, as the two tables of a device tell."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture
from edgenas.errors import InputError
from edgenas.latency.table.table import LatencyTable

Values = npt.NDArray[np.float64]
MIXED = "mixed"  # what such a precision is called
INT8, FLOAT32 = 0, 1
DOUBT = "no certificate is for a network of two precisions: `edgenas ship` measures it"


@dataclass(frozen=True)
class Mix:
    """An int8 network some of whose layers stay in float32.

    Attributes:
        float_layers: their numbers in the network, ascending; none where int8 is the fastest throughout.
        latency_ms: predicted. No certificate backs it.
        int8_ms, float32_ms: predicted of the whole network in one precision.
    """

    float_layers: tuple[int, ...]
    latency_ms: float
    int8_ms: float
    float32_ms: float

    @property
    def pays(self) -> bool:
        """Whether it is predicted to be faster than either precision alone."""
        return bool(self.float_layers) and self.latency_ms < min(self.int8_ms, self.float32_ms)


def fastest_mix(int8: LatencyTable, float32: LatencyTable, network: Architecture) -> Mix:
    """The precision of each layer with which a chain is predicted to be fastest; its ends are int8, as an app expects.

    A layer costs what the table of its precision says. Where the precision changes, each value is written once more: as
    much as the scaling of the image takes for each of its own, by the slower of the tables. The cheapest way through
    the chain is found by dynamic programming (Viterbi, 1967).

    Args:
        int8, float32: tables of one device.
        network: a chain.

    Raises:
        InputError: it branches.
        MissingLayersError: a layer was never measured.
    """
    layers = network.layers()
    if any(network.sources(index) != (index - 1,) for index in range(1, len(layers))):
        raise InputError(f"Mixed precision is for chains of layers; the network {network.id} branches.")
    costs = np.stack([int8.layers_us(network), float32.layers_us(network)], axis=1)
    value_us = float(costs[0].max()) / math.prod(network.input_shape)
    changes = np.array([value_us * math.prod(layer.output_shape) for layer in layers])
    whole_ms = [float(table.estimate_ms([network])[0]) for table in (int8, float32)]
    chosen, saved_us = _cheapest(costs, changes)
    return Mix(tuple(np.flatnonzero(chosen == FLOAT32).tolist()), whole_ms[0] - saved_us / 1000, *whole_ms)


def _cheapest(costs: Values, changes: Values) -> tuple[npt.NDArray[np.int64], float]:
    """The cheapest precision of each layer, and what that saves beside int8 throughout.

    Args:
        costs: [layers, 2] of each layer in each precision.
        changes: [layers] of another precision after each layer.
    """
    costs = costs.copy()
    costs[[0, -1], FLOAT32] = np.inf
    total, came_from = costs[0], []
    for index in range(1, len(costs)):
        # [to, from]
        ways = total[None] + changes[index - 1] * (1 - np.eye(2))
        came_from.append(ways.argmin(axis=1))
        total = ways.min(axis=1) + costs[index]
    way = [INT8]
    for before in reversed(came_from):
        way.append(int(before[way[-1]]))
    return np.array(way[::-1]), float(costs[:, INT8].sum() - total[INT8])
