"""What two tables side by side say, in sentences with figures, the most important first.

The costlier one is always the subject, so the sentences are the same whichever table came first. They follow from the
numbers alone: nothing here knows of a kernel, a precision or a runtime.
"""

import math
from collections.abc import Iterator

from edgenas.latency.comparing.character import LEAST_CASES
from edgenas.latency.comparing.comparing import FACTOR, Contrast, Difference, Group, Shift
from edgenas.latency.comparing.naming import Naming

# Below this rank correlation the order of the costs is another one.
SAME_ORDER = 0.9
# Less than this share of the layers slower or faster is no difference.
SOME = 0.5


def sentences(found: Difference) -> tuple[str, ...]:
    """What stands out; none where nothing does."""
    said: list[tuple[float, str]] = []
    for contrast in found.contrasts:
        if contrast.flip is not None and contrast.first.adjacent:
            size = abs(math.log(contrast.change.median)) + (math.log(FACTOR) if contrast.flip == "order" else 0)
            said.append((_weight(found, size, contrast.change.cases), _step(found.naming, contrast)))
    for group in found.groups:
        if _stands_out(found, group):
            size = abs(math.log(group.shift.ratio.median / found.shift.ratio.median))
            said.append((_weight(found, size, group.shift.ratio.cases), _group(found, group)))
    said.sort(key=lambda each: (-round(each[0], 6), each[1]))
    return (*overall(found), *(sentence for _, sentence in said), *_order(found))


def _weight(found: Difference, size: float, cases: int) -> float:
    """How much a finding matters: a large ratio, and many layers that have it."""
    return size * math.sqrt(cases / len(found.costs))


def times(ratio: float) -> str:
    """A ratio for people: three digits."""
    return f"{ratio:.0f}x" if ratio >= 99.95 else f"{ratio:.1f}x" if ratio >= 9.995 else f"{ratio:.2f}x"


def _slower(naming: Naming, direction: int) -> tuple[str, str]:
    return (naming.second, naming.first) if direction > 0 else (naming.first, naming.second)


def _by(shift: Shift, direction: int) -> str:
    """The share of the layers and by how much: "98% of 561 layers, 13.2x at the median (quartiles 9.80x to 19.0x)"."""
    ratio = shift.ratio
    low, middle, high = ratio.low, ratio.median, ratio.high
    if direction < 0:
        low, middle, high = 1 / high, 1 / middle, 1 / low
    share = shift.slower if direction > 0 else shift.faster
    return (
        f"{share:.0%} of {ratio.cases} layers, {times(middle)} at the median (quartiles {times(low)} to {times(high)})"
    )


def overall(found: Difference) -> Iterator[str]:
    """Which is slower as a whole, if either is."""
    shift, naming = found.shift, found.naming
    shared = f" ({naming.shared})" if naming.shared else ""
    if shift.ratio.direction:
        slow, fast = _slower(naming, shift.ratio.direction)
        yield f"{slow} is slower than {fast}{shared}: {_by(shift, shift.ratio.direction)}."
    elif shift.slower + shift.faster >= SOME:
        sides = sorted([(-shift.slower, naming.second), (-shift.faster, naming.first)])
        (most, slow), (least, other) = sides
        yield (
            f"Neither is slower throughout{shared}: of {shift.ratio.cases} layers {slow} is slower on {-most:.0%}, "
            f"{other} on {-least:.0%}."
        )


def _stands_out(found: Difference, group: Group) -> bool:
    """Whether a group goes another way than the layers as a whole, or is a kind of block that goes it much further."""
    ratio, whole = group.shift.ratio, found.shift.ratio
    if ratio.direction == 0 or ratio.cases == whole.cases:
        return False
    if ratio.direction != whole.direction:
        return True
    change = ratio.median / whole.median
    return group.of == "kind" and max(change, 1 / change) >= FACTOR


def _group(found: Difference, group: Group) -> str:
    direction = group.shift.ratio.direction
    slow, fast = _slower(found.naming, direction)
    what = f"Layers of kind {group.name}" if group.of == "kind" else f"Blocks with {group.name}"
    turn = " are the other way round" if direction == -found.shift.ratio.direction else ""
    # Of layers that go with the rest it is how far that says something.
    whole = found.shift.ratio.median**direction
    rest = f"; all layers {times(whole)}" if direction == found.shift.ratio.direction else ""
    return f"{what}{turn}: {slow} is slower than {fast} on {_by(group.shift, direction)}{rest}."


def _step(naming: Naming, contrast: Contrast) -> str:
    """The table where the step costs more is named first."""
    effect, where = contrast.first, naming.place
    ratios = sorted(
        [(contrast.first.cost.median, naming.first), (contrast.second.cost.median, naming.second)], reverse=True
    )
    (more, on_more), (less, on_less) = ratios
    pairs = f"(by MACs {times(effect.macs)}; {effect.cost.cases} pairs)"
    choice = effect.choice.capitalize()
    if contrast.flip == "order":
        return (
            f"{choice}: {effect.second} costs more than {effect.first} {where} {on_more} ({times(more)}), less {where} "
            f"{on_less} ({times(less)}) {pairs}."
        )
    return (
        f"{choice}: {effect.second} costs {times(more)} what {effect.first} costs {where} {on_more}, {times(less)} "
        f"{where} {on_less} {pairs}."
    )


def _order(found: Difference) -> Iterator[str]:
    if found.spearman < SAME_ORDER and found.moved and len(found.costs) >= LEAST_CASES:
        moved, count = found.moved[0], len(found.costs)
        ranks = sorted([(moved.first_rank, found.naming.first), (moved.second_rank, found.naming.second)])
        (low, on_low), (high, on_high) = ranks
        where = found.naming.place
        yield (
            f"The order of the costs is another one: rank correlation {found.spearman:.2f}. {moved.layer} moves "
            f"furthest: of {count} layers it is number {low} by cost {where} {on_low}, number {high} {where} {on_high}."
        )
