"""How a training went, a value a round."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Curve:
    """One training, a value a round.

    Attributes:
        name: what was trained, such as "fold 1, light".
        steps: done.
        loss, accuracy: of the training images as they were varied, mean over the round.
        held_out: accuracy of the averaged weights on images that were not trained on; empty in the last training.
        learned: steps after which that was first better than a guess by three standard errors; 0: never.
    """

    name: str
    steps: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()
    held_out: tuple[float, ...] = ()
    learned: int = 0

    def and_then(self, steps: int, values: dict[str, float]) -> "Curve":
        """The curve with one more round; `values` has loss, accuracy, and held_out where there is any."""
        more: dict[str, Any] = {
            name: (*getattr(self, name), values[name]) for name in ("loss", "accuracy", "held_out") if name in values
        }
        return dataclasses.replace(self, steps=(*self.steps, steps), **more)

    @property
    def best(self) -> tuple[int, float]:
        """The first step at which the accuracy on images held out was highest, and that accuracy."""
        top = max(self.held_out)
        return self.steps[self.held_out.index(top)], top
