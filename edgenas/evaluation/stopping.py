"""How long the last training should be, and how strongly its images should be varied: found on images held out."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from typing import Any

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.errors import EdgeNASError
from edgenas.evaluation.checkpoint import Checkpoint
from edgenas.evaluation.curve import Curve
from edgenas.evaluation.data import Dataset, above_chance, metrics, stratified_sample
from edgenas.evaluation.evaluator import Rounds
from edgenas.evaluation.recipe import FEW, Grade, Recipe
from edgenas.evaluation.training import DECAY, ROUND_STEPS, Indices, Trainer
from edgenas.evaluation.workers import Died, InThisProcess, Outcome, Processes, Told, Workers

MOST_STEPS = 2_500
LEAST_STEPS = 1_000
PATIENCE = 1.0  # times the best step: so long without anything better, and it is the end
MOST_HELD_OUT = 2_000  # images: more would tell it no better


@dataclass(frozen=True)
class Stop:
    """How the last training is to go.

    Attributes:
        steps: of it.
        grade: how strongly its images are varied.
        converged: whether nothing better came for long; False: the most steps were not enough to tell.
        learned: whether anything came that was better than a guess.
        curves: what it was found by.
    """

    steps: int
    grade: Grade
    converged: bool
    learned: bool
    curves: tuple[Curve, ...]


def _has_ended(curve: Curve) -> bool:
    """Whether nothing better has come for long; never before there was something better than a guess."""
    return curve.learned > 0 and curve.steps[-1] >= max(LEAST_STEPS, (1 + PATIENCE) * curve.best[0])


def find_stop(
    architecture: Architecture,
    dataset: Dataset,
    rounds: Rounds,
    train_on: Indices,
    recipe: Recipe,
    seed: int,
    *,
    most_steps: int = MOST_STEPS,
    checkpoint: Path | None = None,
    told: Told = lambda what, done, most: None,
    workers: Workers | None = None,
) -> Stop:
    """Train with images held out until nothing better comes: on small data once a fold.

    The learning rate stays at its highest, and the weights' moving average is measured: it does what a falling rate
    would do (see `rate_at`). The last training, on all images, then takes the median of the steps that this took, the
    falling part added, as many times more as it has more images: not of those that were best, for what few images say
    has ended gets better still where the rate falls. Of small data the first fold is trained with each
    grade of augmentation, unless the recipe names one; the better one stays.

    Args:
        architecture, dataset, recipe, seed: as in `train`.
        rounds: what to train on and what is held out.
        train_on: [n] what the last training has.
        most_steps: of each of these trainings.
        checkpoint: a folder to go on from after a break.
        told: called after each round of steps.
        workers: where these trainings run; None: here if it is one, else in processes.

    Raises:
        TrainingError: the loss is not finite.
        EdgeNASError: a process died.
    """
    grades: tuple[Grade, ...] = ("light", "strong") if len(train_on) < FEW else ("light",)
    if recipe.augment:
        grades = (recipe.augment,)
    trainings = len(grades) + len(rounds) - 1
    own = workers or (Processes(trainings) if trainings > 1 else InThisProcess())

    def run(asked: list[tuple[int, Grade]]) -> list[Curve]:
        calls = []
        for number, grade in asked:
            name = f"fold {number + 1}, {grade}" if len(rounds) > 1 else grade
            folder = None if checkpoint is None else checkpoint / f"{number + 1}-{grade}"
            calls.append((architecture, recipe, dataset, rounds[number], Curve(name), grade, seed, most_steps, folder))
        return [_curve(outcome) for outcome in own.run(_run, calls, told)]

    others = range(1, len(rounds))
    try:
        # All at once where there is nothing to choose.
        curves = run([(0, grade) for grade in grades] + [(each, grades[0]) for each in others if len(grades) == 1])
        best = max(curves[: len(grades)], key=lambda curve: curve.best[1])
        grade = grades[curves.index(best)]
        curves += run([(each, grade) for each in others if len(grades) > 1])
    finally:
        own.close()
    chosen = [best, *curves[len(grades) :]]
    steps = [_whole(curve.steps[-1], len(train_on) / len(held_in))
             for curve, (held_in, _) in zip(chosen, rounds, strict=True)]  # fmt: skip
    learned = any(curve.learned for curve in chosen)
    return Stop(median_high(steps), grade, all(map(_has_ended, chosen)), learned, tuple(curves))


def _curve(outcome: Outcome) -> Curve:
    """What `_run` gave."""
    if isinstance(outcome.failure, Died):
        raise EdgeNASError(f"A training broke off: {outcome.failure}. The same command goes on with it.")
    if outcome.failure is not None:
        raise outcome.failure
    curve: Curve = outcome.value
    return curve


def _whole(steps: int, more_images: float) -> int:
    """Steps of the last training: the falling part added, and as many passes as the held-out training had."""
    return max(1, round(steps / (1 - DECAY) * more_images / ROUND_STEPS)) * ROUND_STEPS


def _run(
    architecture: Architecture, recipe: Recipe, dataset: Dataset, halves: tuple[Indices, Indices], curve: Curve,
    grade: Grade, seed: int, most_steps: int, folder: Path | None, told: Told,
) -> Curve:  # fmt: skip
    trainer = Trainer.of(architecture, dataset, recipe, averaged=True)
    train_on, held_out = halves
    held_out = stratified_sample(dataset.y, held_out, MOST_HELD_OUT, seed)
    trainer.begin(seed)
    checkpoint = Checkpoint(folder)
    first, notes = checkpoint.restore(trainer.state)
    if notes is not None:
        curve = files.from_mapping(Curve, notes, str(folder))
    if curve.steps and _has_ended(curve):
        return curve
    for done, values in trainer.rounds(train_on, range(first, most_steps), None, seed, grade):
        found = metrics(dataset.y[held_out], trainer.predict_averaged(held_out).argmax(axis=1), dataset.classes)
        curve = curve.and_then(done, values | {"held_out": found["accuracy"]})
        if not curve.learned and above_chance(found):
            curve = dataclasses.replace(curve, learned=done)
        checkpoint.save(done, trainer.state, files.as_mapping(curve))
        told(f"looking for when to stop ({curve.name})", done, most_steps)
        if _has_ended(curve):
            break
    return curve


@dataclass(frozen=True)
class Course:
    """How a last training went.

    Attributes:
        curves: of the trainings that it was found by, if it was not given how long it is.
        last: its own.
        advice: whether more training or more data would help; "" where nothing tells.
    """

    curves: tuple[Curve, ...]
    last: Curve
    advice: str


def advice(stop: Stop) -> str:
    """Whether more training or more data would help, in a sentence."""
    held = [curve for curve in stop.curves if curve.name.endswith(stop.grade)]
    best = sum(curve.best[1] for curve in held) / len(held)
    known: Any = [curve.accuracy[curve.steps.index(curve.best[0])] for curve in held]
    seen = sum(known) / len(known)
    if not stop.converged:
        return (
            f"More training may help: after {max(curve.steps[-1] for curve in held)} steps the accuracy on images held "
            "out still rose. Allow more with --most-steps."
        )
    if seen - best > 0.03:
        return (
            f"More training would not help, more data would: the network gets {seen:.1%} of its training images right "
            f"(varied as they are) and {best:.1%} of those held out."
        )
    return (
        f"Neither more training nor more data of this kind would help much: {seen:.1%} of the training images (varied "
        f"as they are) and {best:.1%} of those held out are right. A larger network may get further: a looser limit."
    )
