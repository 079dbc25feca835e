"""The free objectives (latency and memory, microseconds from the table) and the limits on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgenas.errors import InputError
from edgenas.latency.memory import memory_of_codes
from edgenas.latency.table import LatencyTable
from edgenas.space import Codes, MobileSpace
from edgenas.strategy.settings import Limits

SPAN_DRAWN = 2000  # networks
Values = npt.NDArray[np.float64]
Score = Callable[[Codes], Values]  # [N, choices] -> [N], lower is better


@dataclass(frozen=True)
class Span:
    """What the networks of a space take on a device, ms: the upper ends of their intervals.

    Attributes:
        least_ms, half_ms, most_ms: the fastest, what half of them keep, and the slowest.
    """

    least_ms: float
    half_ms: float
    most_ms: float

    def __str__(self) -> str:
        return (
            f"No limit on latency was given. Networks of this space take {self.least_ms:.3g} to {self.most_ms:.3g} ms; "
            f"half of them keep --max-latency-ms {ceil3(self.half_ms)}."
        )


class FreeObjectives:
    """Latency and memory of many networks at once, and whether they keep the limits.

    Args:
        space: of the codes.
        table: of the device.
        precision: as deployed.
        limits: what a candidate may cost.

    Raises:
        MissingLayersError: the table lacks layers of the space.
        InputError: a limit on latency, but the table has no certificate and so no interval.
    """

    def __init__(self, space: MobileSpace, table: LatencyTable, precision: str, limits: Limits) -> None:
        self.space = space
        self._table = table
        self._precision = precision
        self.limits = limits
        self._factor = table.interval_factor(limits.coverage) if table.certificate else None
        if limits.max_latency_ms is not None and self._factor is None:
            raise InputError("A limit on latency needs a table with a certificate. Profile the device again.")
        table.costs(space)

    def values(self, codes: Codes) -> dict[str, Values]:
        """Name -> [N]: latency_ms and its interval's ends latency_low_ms and latency_high_ms, arena_kb, model_kb,
        peak_memory_kb. Without a certificate the interval is the prediction itself."""
        latency = self._table.estimate_codes_ms(self.space, codes)
        factor = self._factor or 1.0
        ends = {"latency_low_ms": latency / factor, "latency_high_ms": latency * factor}
        return {"latency_ms": latency, **ends, **memory_of_codes(self.space, codes, self._precision)}

    def span(self) -> "Span":
        """What the space's networks take by the table: of 2,000 drawn at random, the smallest among them."""
        drawn = np.vstack([self.space.sample(np.random.default_rng(0), SPAN_DRAWN), self.space.smallest_code[None]])
        latency = np.sort(self.values(drawn)["latency_high_ms"])
        return Span(float(latency[0]), float(np.median(latency)), float(latency[-1]))

    def excess(self, codes: Codes) -> Values:
        """[N] by how much the limit that is broken most is exceeded, as a fraction of it; at most 0 if all are kept."""
        values = self.values(codes)
        worst = np.full(len(codes), -np.inf)
        for name, most in self.limits.by_objective().items():
            worst = np.maximum(worst, values[_bounded(name)] / most - 1)
        return worst

    @cached_property
    def anchor(self) -> Codes:
        """[choices] a network that keeps all limits, found by descent.

        Raises:
            InputError: none was found; the limits that are too tight and the nearest reachable values are named.
        """
        if not self.limits.by_objective():
            return self.space.smallest_code
        code = self._descend(self.excess)
        if self.excess(code[None])[0] <= 0:
            return code
        raise InputError(self._impossible())

    def _impossible(self) -> str:
        tight = []
        for name, most in self.limits.by_objective().items():
            column = _bounded(name)

            def score(codes: Codes, column: str = column) -> Values:
                return self.values(codes)[column]

            least = float(score(self._descend(score)[None])[0])
            if least > most:
                tight.append(f"--max-{name.replace('_', '-')} {most:g} (the nearest reachable value is {ceil3(least)})")
        if tight:
            return f"No network of this space keeps {' and '.join(tight)}."
        asked = " with ".join(f"--max-{n.replace('_', '-')} {m:g}" for n, m in self.limits.by_objective().items())
        return f"Each limit can be kept, but no network was found that keeps them together: {asked}. Loosen one."

    def _descend(self, score: Score) -> Codes:
        """The row that lowering `score` choice by choice leads to, from the smallest network."""
        code = self.space.smallest_code
        value = score(code[None])[0]
        while True:
            neighbours = self.space.neighbours(code)
            scores = score(neighbours)
            best = int(np.argmin(scores))
            if scores[best] >= value:
                return code
            code, value = neighbours[best], scores[best]

    def describe(self, code: Codes) -> Mapping[str, float]:
        """The free values of one row [choices], by name."""
        return {name: float(column[0]) for name, column in self.values(code[None]).items()}


def _bounded(name: str) -> str:
    """What a limit is held against: for latency the upper end of the interval."""
    return "latency_high_ms" if name == "latency_ms" else name


def ceil3(value: float) -> str:
    """Three significant digits, rounded up: a limit that can be kept."""
    digits = 2 - int(np.floor(np.log10(value)))
    return f"{np.ceil(value * 10.0**digits) / 10.0**digits:.{max(digits, 0)}f}"
