"""The state that a device is in: how long networks of its table take now, over what they took when it was made.

One reference model does not tell that. On a machine that others use too, memory and caches are faster or slower from
one minute to the next, by some percent, and one network feels it more than another.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from edgenas.latency.profiling.rounds import Ratio
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.certificate import Network

ANCHORS = 12
# A table whose networks have moved by more than that is stale: it is no passing state.
MOST_SHIFT = 0.05
T = TypeVar("T")


def anchors_of(table: LatencyTable) -> list[Network]:
    """Networks of the table's calibration, evenly spread over their times, to be measured in the same rounds."""
    networks = table.calibration.networks
    return spread(networks, [network.truth_ms for network in networks], ANCHORS)


def state_of(table: LatencyTable, anchors: Sequence[Network], ratios: Sequence[Ratio]) -> float:
    """By what a network's time is to be divided: the median of what the anchors take over what they took.

    At most `MOST_SHIFT` from 1, so that a stale table is not excused; 1 where the table has no anchors.

    Args:
        ratios: of the anchors to the table's reference model, measured now.
    """
    if not anchors:
        return 1.0
    now_ms = np.array([ratio.value for ratio in ratios]) * table.reference[1] / 1000
    state = float(np.median(now_ms / np.array([network.truth_ms for network in anchors])))
    return float(np.clip(state, 1 - MOST_SHIFT, 1 + MOST_SHIFT))


def spread(items: Sequence[T], costs: Sequence[float], count: int) -> list[T]:
    """Some of the items, evenly spread over their costs."""
    order = np.argsort(costs)
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[int(order[place])] for place in places]
