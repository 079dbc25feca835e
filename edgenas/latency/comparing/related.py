"""What other tables of the same devices add to a comparison: the other precision, another activation.

Two runtimes side by side do not tell which precision is the quicker one on each. A third and a fourth table do.
"""

import math
from collections.abc import Iterable

from edgenas.errors import InputError
from edgenas.latency.comparing.comparing import Difference, compare
from edgenas.latency.comparing.findings import overall
from edgenas.latency.comparing.naming import activations
from edgenas.latency.table import LatencyTable

LEAST_SHARED = 0.5  # of the smaller table's layers: else the other one is of another space


def related_sentences(first: LatencyTable, second: LatencyTable, others: Iterable[LatencyTable]) -> tuple[str, ...]:
    """Overall findings about each of two tables and those of the same device and runtime that differ from it in its
    precision or its activation alone; those with the largest shift first.

    Args:
        first, second: the tables that are compared.
        others: all tables there are.
    """
    said: dict[str, float] = {}
    known = list(others)
    for table in (first, second):
        for other in known:
            if _differ_in_one(table, other) and {table.checksum, other.checksum} != {first.checksum, second.checksum}:
                try:
                    found = compare(table, other)
                except InputError:  # nothing in common
                    continue
                if len(found.costs) >= LEAST_SHARED * min(len(table.entries), len(other.entries)):
                    said |= {sentence: _size(found) for sentence in overall(found)}
    return tuple(sorted(said, key=lambda sentence: (-said[sentence], sentence)))


def _size(found: Difference) -> float:
    return abs(math.log(found.shift.ratio.median))


def _differ_in_one(table: LatencyTable, other: LatencyTable) -> bool:
    mine, its = table.identity, other.identity
    same = all(
        getattr(mine, name) == getattr(its, name)
        for name in ("fingerprint", "runtime", "runtime_version", "threads", "cores")
    )
    differs = (mine.precision != its.precision) + (activations(table) != activations(other))
    return same and differs == 1
