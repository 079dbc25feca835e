"""The character of a device: how one choice changes a block's cost there, with all else equal.

Costs are those of layers measured alone. Ratios are summed up on a log scale, so that "twice" and "half" weigh alike
and what is said of second / first is the mirror image of what is said of first / second. NumPy only.
"""

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np

from edgenas.architecture import Layer
from edgenas.architecture.blocks import MBConv
from edgenas.latency.table import LatencyTable

# Ratios nearer to 1 than this say nothing: machines repeat themselves no better from one day to the next.
EVEN = 1.05
# Fewer cases than this have no quartiles to speak of.
LEAST_CASES = 4


@dataclass(frozen=True)
class Spread:
    """How a ratio spreads over some cases: their number, the median and the quartiles."""

    cases: int
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, ratios: Iterable[float]) -> Self:
        """The spread of some ratios, at least one."""
        logs = np.log(np.fromiter(ratios, dtype=float))
        low, median, high = np.exp(np.percentile(logs, [25, 50, 75]))
        return cls(len(logs), float(low), float(median), float(high))

    @property
    def direction(self) -> int:
        """1 where at least three quarters of enough cases lie above 1, -1 where they lie below, else 0."""
        if self.cases < LEAST_CASES:
            return 0
        return int(self.low > EVEN) - int(self.high < 1 / EVEN)


@dataclass(frozen=True)
class Choice:
    """Something that may vary in a block.

    Attributes:
        name: in words.
        field: of `MBConv`.
    """

    name: str
    field: str

    def text(self, value: Any) -> str:
        """A value as the notation writes it: "k7"."""
        prefix = MBConv.__dataclass_fields__[self.field].metadata["prefix"]
        return str(prefix) + str(value).removesuffix(".0")

    def step_text(self, first: Any, second: Any) -> tuple[str, str]:
        """Both ends of a step."""
        return self.text(first), self.text(second)

    def family(self, layer: Layer) -> Hashable:
        """The same for layers that differ in this choice alone."""
        return (*self._others(layer), layer.input_shapes)

    def steps(self, members: Mapping[Any, Layer]) -> Iterator[tuple[Any, Any, Layer, Layer]]:
        """Every pair of a family's members, the lesser value first: (value, value, layer, layer)."""
        for first, second in itertools.combinations(sorted(members), 2):
            yield first, second, members[first], members[second]

    def _others(self, layer: Layer) -> list[Any]:
        return [value for name, value in vars(layer.block).items() if name != self.field]


class _Channels(Choice):
    """The channels of a block's input and output together: the one step is to double both, from 1 to 2 times."""

    def step_text(self, first: Any, second: Any) -> tuple[str, str]:
        return "c", f"{second}c"

    def family(self, layer: Layer) -> Hashable:
        height, width, channels = layer.input_shapes[0]
        return (*self._others(layer), height, width, Fraction(channels, layer.output_shape[2]))

    def steps(self, members: Mapping[Any, Layer]) -> Iterator[tuple[Any, Any, Layer, Layer]]:
        for channels in sorted(members):
            if 2 * channels in members:
                yield 1, 2, members[channels], members[2 * channels]


CHOICES = (
    Choice("kernel", "kernel"),
    Choice("expansion", "expansion"),
    Choice("squeeze-and-excitation", "se_ratio"),
    Choice("stride", "stride"),
    _Channels("channels", "channels"),
    Choice("activation", "activation"),
)


@dataclass(frozen=True)
class Effect:
    """What a step from one value of a choice to another does to a block, all else equal.

    Attributes:
        choice: its name.
        first, second: the values, as the notation writes them; "c" and "2c" for twice the channels in and out.
        adjacent: whether no value lies between them.
        cost: of the second over the first.
        macs: the same of multiply-accumulates, the median: what whoever counts them would believe.
    """

    choice: str
    first: str
    second: str
    adjacent: bool
    cost: Spread
    macs: float


@dataclass(frozen=True)
class Character:
    """How choices change costs on a device.

    Attributes:
        effects: by choice and values, in the order of `CHOICES`.
        unresolved: how many layers were left out; see `resolved_us`.
    """

    effects: tuple[Effect, ...]
    unresolved: int


def character(table: LatencyTable) -> Character:
    """How each choice changes the cost of a mobile inverted bottleneck on a table's device."""
    costs_us = resolved_us(table)
    return Character(effects(pairs(costs_us), costs_us), len(table.entries) - len(costs_us))


def resolved_us(table: LatencyTable) -> dict[Layer, float]:
    """Microseconds of the layers that cost at least what the runtime takes without any layer.

    A cost is a difference of two times; what is left of a layer cheaper than that is mostly their noise.
    """
    return {layer: entry.us for layer, entry in table.entries.items() if entry.us >= table.empty_us}


# By (choice, value, value): the layers that make this step.
Pairs = dict[tuple[Choice, Any, Any], list[tuple[Layer, Layer]]]


def pairs(layers: Iterable[Layer]) -> Pairs:
    """All pairs of layers that differ in one choice alone, in the order of `CHOICES` and of their values."""
    layers = tuple(layers)
    found: Pairs = {}
    for choice in CHOICES:
        steps: Pairs = {}
        for members in _families(choice, layers):
            for first, second, layer, other in choice.steps(members):
                steps.setdefault((choice, first, second), []).append((layer, other))
        found |= dict(sorted(steps.items(), key=lambda step: step[0][1:]))
    return found


def _families(choice: Choice, layers: Iterable[Layer]) -> list[dict[Any, Layer]]:
    """Mobile inverted bottlenecks that differ in one choice alone, by its value; those without a partner left out."""
    found: dict[Any, dict[Any, Layer]] = {}
    for layer in layers:
        if isinstance(layer.block, MBConv):
            found.setdefault(choice.family(layer), {})[getattr(layer.block, choice.field)] = layer
    return [members for members in found.values() if len(members) > 1]


def effects(found: Pairs, costs_us: Mapping[Layer, float]) -> tuple[Effect, ...]:
    """What each step does to the cost."""
    return tuple(
        Effect(
            choice.name,
            *choice.step_text(first, second),
            _adjacent(found, choice, first, second),
            Spread.of(costs_us[other] / costs_us[layer] for layer, other in steps),
            float(np.median([other.macs / layer.macs for layer, other in steps])),
        )
        for (choice, first, second), steps in found.items()
    )


def _adjacent(found: Pairs, choice: Choice, first: Any, second: Any) -> bool:
    """Whether a step is no sum of two others; activations, which have no order, are all neighbours."""
    between = {
        value for other, low, high in found if other == choice for value in (low, high) if first < value < second
    }
    return isinstance(first, str) or not between
