"""Whether devices are of one kind, so that they may share the work of one latency table."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from edgenas.latency.profiling.rounds import Ratio, Rounds, half_width
from edgenas.latency.table import Identity

# Networks may take this share more or less time, relative to the reference model, than on a sibling: in the middle, and
# three in four of them.
MOST_SHIFT, MOST_SPREAD = 0.05, 0.08


def differences(first: Identity, other: Identity) -> tuple[str, ...]:
    """What another device, or the same one later, says of itself that the first did not, in words."""
    found = []
    for field in dataclasses.fields(Identity):
        mine, its = getattr(first, field.name), getattr(other, field.name)
        if field.name in ("device", "fingerprint") or mine == its:
            continue
        # A system that reserves a little more memory makes no other device.
        if field.name == "memory_mb" and abs(mine - its) <= 0.05 * max(mine, its):
            continue
        found.append(f"{field.name.replace('_', ' ')}: {mine or 'unknown'} became {its or 'unknown'}")
    return tuple(found)


def stranger(first: Identity, other: Identity) -> str | None:
    """Why another device cannot be of the first one's kind, by what it says of itself; None where it can."""
    found = differences(first, other)
    return f"it is another kind of device than {first.device} ({'; '.join(found)})" if found else None


def stranger_by_times(first: Rounds, other: Rounds) -> str | None:
    """The same by how long the same networks take beside the same reference."""
    pairs = [(a.value, b.value) for a, b in zip(first.ratios, other.ratios, strict=True) if a and b]
    shares = np.array([b / a for a, b in pairs])
    middle = float(np.median(shares))
    spread = float(np.percentile(np.abs(shares - 1), 75))
    if abs(middle - 1) <= MOST_SHIFT and spread <= MOST_SPREAD:
        return None
    return (
        f"relative to the reference model the same {len(pairs)} networks take {middle:.2f} times as long in the middle "
        f"(at most {MOST_SHIFT:.0%} may differ), and one in four differs by more than {spread:.0%} (at most "
        f"{MOST_SPREAD:.0%})"
    )


def mean_of(measured: Sequence[Rounds]) -> Rounds:
    """What several devices found for the same models, as one."""
    ratios: list[Ratio | None] = []
    for found in zip(*(rounds.ratios for rounds in measured), strict=True):
        good = [ratio for ratio in found if ratio is not None]
        values = [ratio.value for ratio in good]
        resident_kb = min((ratio.resident_kb for ratio in good if ratio.resident_kb is not None), default=None)
        colds = [ratio.cold for ratio in good if ratio.cold is not None]
        cold = float(np.mean(colds)) if colds else None
        width = half_width(values) if len(good) > 1 else good[0].half_width if good else 0.0
        ratios.append(Ratio(float(np.mean(values)), width, cold, resident_kb) if good else None)
    first = measured[0]
    return dataclasses.replace(
        first,
        ratios=tuple(ratios),
        visits=sum(rounds.visits for rounds in measured),
        interrupted=sum(rounds.interrupted for rounds in measured),
        drifted=sum(rounds.drifted for rounds in measured),
        busy_s=sum(rounds.busy_s for rounds in measured),
    )
