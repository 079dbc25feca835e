"""How steady a device was while it was measured: one rule for profile, measure, ship, verify, check and phones.

Steady: what was measured counts, and promises are judged. Disturbed: other work took cores or caches all the time; the
value is given with the interval that this allows, and no promise is judged. Impossible: there is no value, and the
error says why. A board in the field is busy with the very model that is being replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Steadiness:
    """What befell the visits of a measurement.

    Attributes:
        disturbed: whether values rest on visits that the gates of a steady device would have dropped.
        interrupted: share of the visits that lost their core to another process.
        moved: share of the visits whose reference model had moved.
        busy: what the device says it is busy with, a sentence; "" where it does not say.
    """

    disturbed: bool = False
    interrupted: float = 0.0
    moved: float = 0.0
    busy: str = ""

    @property
    def grade(self) -> str:
        """ "steady" or "disturbed"."""
        return "disturbed" if self.disturbed else "steady"

    def __str__(self) -> str:
        shares = (
            f"{self.interrupted:.0%} of the visits lost their core to another process, {self.moved:.0%} had a "
            "reference model beside them that had moved"
        )
        return f"{self.grade}: {shares}" + (f". {self.busy}" if self.busy else "")


STEADY = Steadiness()


def slowed(references_us: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """By which share the reference model was slower than at its fastest, but for a quarter of its visits.

    Other work only slows it down, and a model beside it as much: that may be as fast again.
    """
    return float(np.percentile(references_us, 75) / np.min(references_us)) - 1


def widened(low: float, high: float, share: float) -> tuple[float, float]:
    """An interval, wider by a share on either side: what disturbed visits leave unknown."""
    return low / (1 + share), high * (1 + share)
