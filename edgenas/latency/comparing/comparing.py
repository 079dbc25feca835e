"""Two latency tables side by side: what differs, how far costs shift, whose rank changes, and which choices flip.

The two may differ in anything (device, runtime, firmware, precision, activation) as long as they hold layers in
common. Everything that is said of them follows from their numbers alone. NumPy only.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgenas.architecture import Layer
from edgenas.architecture.blocks import MBConv
from edgenas.errors import InputError
from edgenas.latency.comparing.character import CHOICES, EVEN, Effect, Spread, effects, pairs, resolved_us
from edgenas.latency.comparing.naming import Naming, activations, name_tables
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.certificate import spearman

# A ratio that changes by this factor between the tables is worth a sentence.
FACTOR = 2.0
MOVED_LAYERS = 10

Costs = Mapping[Layer, tuple[float, float]]  # microseconds in the first table and in the second


@dataclass(frozen=True)
class Shift:
    """How the costs of some layers shift from the first table to the second.

    Attributes:
        ratio: of second over first.
        mean: geometric, of the same.
        slower, faster: shares of the layers whose cost differs by more than repeating a measurement would.
    """

    ratio: Spread
    mean: float
    slower: float
    faster: float

    @classmethod
    def of(cls, costs: Iterable[tuple[float, float]]) -> "Shift":
        """The shift of (first, second) costs, at least one pair."""
        ratios = np.array([second / first for first, second in costs])
        return cls(
            Spread.of(ratios),
            float(np.exp(np.log(ratios).mean())),
            float((ratios > EVEN).mean()),
            float((ratios < 1 / EVEN).mean()),
        )


@dataclass(frozen=True)
class Group:
    """Layers of one kind ("head") or blocks of one value of a choice ("k7")."""

    of: str  # "kind", or the choice
    name: str
    shift: Shift


@dataclass(frozen=True)
class Contrast:
    """One step of a choice in both tables, over the same pairs of layers.

    Attributes:
        first, second: what the step does in each table.
        change: of the ratio of each pair, second table over first.
        flip: "order" where the dearer value becomes the cheaper one, "size" where the ratio changes by `FACTOR`.
    """

    first: Effect
    second: Effect
    change: Spread
    flip: Literal["order", "size"] | None


@dataclass(frozen=True)
class Moved:
    """A layer whose rank by cost changed.

    Attributes:
        layer: in the first table.
        first_us, second_us: its costs.
        first_rank, second_rank: 1 is the cheapest.
    """

    layer: Layer
    first_us: float
    second_us: float
    first_rank: int
    second_rank: int


@dataclass(frozen=True)
class Difference:
    """Two tables side by side.

    Attributes:
        naming: what to call them, and what differs in their identities.
        costs: of the layers in common, by the first table's layer: those that differ in their activation alone are
            the same where the tables have none in common.
        only_first, only_second: layers that one table lacks.
        unresolved: layers in common that are too cheap to tell in one of them.
        shift: of all layers in common.
        spearman: rank correlation of their costs; NaN for one layer.
        moved: those whose rank changed most.
        contrasts: every step of every choice.
        groups: the shift by kind of block and by value of a choice.
    """

    naming: Naming
    costs: Costs
    only_first: tuple[Layer, ...]
    only_second: tuple[Layer, ...]
    unresolved: int
    shift: Shift
    spearman: float
    moved: tuple[Moved, ...]
    contrasts: tuple[Contrast, ...]
    groups: tuple[Group, ...]


def compare(first: LatencyTable, second: LatencyTable) -> Difference:
    """Set two tables side by side.

    Raises:
        InputError: they have no layer in common that both can tell from nothing.
    """
    partner = _partners(first, second)
    known = resolved_us(first), resolved_us(second)
    costs = {
        layer: (known[0][layer], known[1][other])
        for layer, other in partner.items()
        if layer in known[0] and other in known[1]
    }
    if not costs:
        raise InputError(
            "The two latency tables have no layer in common, so there is nothing to compare: make both for the same "
            "--space and --input."
        )
    matched = set(partner.values())
    values = np.array(list(costs.values()))
    return Difference(
        naming=name_tables(first, second),
        costs=costs,
        only_first=tuple(layer for layer in first.entries if layer not in partner),
        only_second=tuple(layer for layer in second.entries if layer not in matched),
        unresolved=len(partner) - len(costs),
        shift=Shift.of(costs.values()),
        spearman=spearman(values[:, 0], values[:, 1]),
        moved=_moved(costs),
        contrasts=_contrasts(costs),
        groups=_groups(costs),
    )


def _partners(first: LatencyTable, second: LatencyTable) -> dict[Layer, Layer]:
    """The second table's layer for each of the first's that both hold."""
    one, other = activations(first), activations(second)
    key = _without_activation if len(one) == len(other) == 1 and one != other else _itself
    others = {key(layer): layer for layer in second.entries}
    return {layer: others[key(layer)] for layer in first.entries if key(layer) in others}


def _itself(layer: Layer) -> Hashable:
    return layer


def _without_activation(layer: Layer) -> Hashable:
    return (
        type(layer.block),
        *(value for name, value in vars(layer.block).items() if name != "activation"),
        layer.input_shapes,
    )


def _moved(costs: Costs) -> tuple[Moved, ...]:
    # By name first: equal costs rank alike in both tables.
    layers = sorted(costs, key=str)
    ranks = []
    for table in (0, 1):
        order = sorted(layers, key=lambda layer: costs[layer][table])
        ranks.append({layer: rank for rank, layer in enumerate(order, start=1)})
    changed = [layer for layer in layers if ranks[0][layer] != ranks[1][layer]]
    changed.sort(key=lambda layer: -abs(ranks[1][layer] - ranks[0][layer]))
    return tuple(Moved(layer, *costs[layer], ranks[0][layer], ranks[1][layer]) for layer in changed[:MOVED_LAYERS])


def _contrasts(costs: Costs) -> tuple[Contrast, ...]:
    found = pairs(costs)
    tables = [{layer: us[table] for layer, us in costs.items()} for table in (0, 1)]
    ratios = [
        [(tables[1][other] / tables[1][layer]) / (tables[0][other] / tables[0][layer]) for layer, other in steps]
        for steps in found.values()
    ]
    each = zip(effects(found, tables[0]), effects(found, tables[1]), ratios, strict=True)
    return tuple(_contrast(first, second, Spread.of(changes)) for first, second, changes in each)


def _contrast(first: Effect, second: Effect, change: Spread) -> Contrast:
    flip: Literal["order", "size"] | None = None
    if first.cost.direction * second.cost.direction < 0:
        flip = "order"
    elif change.direction != 0 and max(change.median, 1 / change.median) >= FACTOR:
        flip = "size"
    return Contrast(first, second, change, flip)


def _groups(costs: Costs) -> tuple[Group, ...]:
    members: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for layer, us in costs.items():
        members.setdefault(("kind", layer.block.token.partition("_")[0]), []).append(us)
    for choice in CHOICES:
        found: dict[Any, list[tuple[float, float]]] = {}
        for layer, us in costs.items():
            if isinstance(layer.block, MBConv):
                found.setdefault(getattr(layer.block, choice.field), []).append(us)
        if len(found) > 1:  # a value that every block has says nothing of it
            members |= {(choice.name, choice.text(value)): found[value] for value in sorted(found)}
    return tuple(Group(*key, Shift.of(group)) for key, group in members.items())
