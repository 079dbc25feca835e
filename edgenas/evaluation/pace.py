"""How long a candidate's training takes on this machine, before any device and any search."""

from dataclasses import dataclass
from time import monotonic

from edgenas.evaluation.data import Dataset, Splits
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import Trainer, prepare_tensorflow
from edgenas.space import MobileSpace
from edgenas.space.baselines import hand_made

STEPS = 8  # that are timed
_UNTIMED = 2  # the first traces, the second fills caches
_LARGEST_TINY = 64  # pixels of a side: above it, networks are of the space "standard"


@dataclass(frozen=True)
class Pace:
    """What a training costs.

    Attributes:
        batch_size: images a step.
        folds: trainings a candidate.
        start_s: of building and tracing the largest network that a person would draw.
        step_s: of a step of it.
    """

    batch_size: int
    folds: int
    start_s: float
    step_s: float

    def trial_s(self, steps: int) -> float:
        """Seconds that a candidate of so many steps takes."""
        return self.start_s + self.folds * steps * self.step_s


def pace(dataset: Dataset, splits: Splits, recipe: Recipe) -> Pace:
    """Train a large network for a few steps, and look at the clock.

    Raises:
        InputError: no space has networks for such images.
    """
    name = "tiny" if max(dataset.input_shape[:2]) <= _LARGEST_TINY else "standard"
    space = MobileSpace(name, dataset.input_shape, dataset.classes)
    prepare_tensorflow()
    largest = next(iter(hand_made(space).values()))
    train_on, _ = splits.rounds[0]
    begin = monotonic()
    trainer = Trainer.of(space.decode(space.values(largest)), dataset, recipe)
    for _ in trainer.rounds(train_on, range(_UNTIMED), None, 0):
        start_s = monotonic() - begin
    begin = monotonic()
    for _ in trainer.rounds(train_on, range(_UNTIMED, _UNTIMED + STEPS), None, 0):
        step_s = (monotonic() - begin) / STEPS
    return Pace(recipe.batch_of(len(train_on)), len(splits.rounds), start_s, step_s)
