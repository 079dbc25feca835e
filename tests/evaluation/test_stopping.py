"""When to stop, found by trainings whose accuracies follow a script: nothing is trained here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.errors import EdgeNASError
from edgenas.evaluation import stopping
from edgenas.evaluation.curve import Curve
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.stopping import Stop, advice, find_stop
from edgenas.evaluation.training import TrainingError
from edgenas.evaluation.workers import Died, InThisProcess, Outcome

NETWORK = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 head_c8_relu6 dense_n10")
HELD_OUT = 1000  # images of a round
Says = Callable[[int], float]  # held-out accuracy after so many steps


def peak(at: int, top: float = 0.8) -> Says:
    """Rises to its best, and falls a little after it."""
    return lambda done: top * done / at if done <= at else top - 0.1


def rising(done: int) -> float:
    return done / 100_000


class Variable:
    def __init__(self) -> None:
        self.value = np.zeros(1)

    def numpy(self) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        self.value = np.asarray(value)


@dataclass
class Script:
    """What `stopping.Trainer` is replaced by.

    Attributes:
        says: the accuracies of each training, by fold (from 1) and grade.
        trained: (fold, grade, first step, steps) of each, in order.
        made: how trainers were made.
        measured: images of each measurement.
    """

    says: dict[tuple[int, str], Says]
    trained: list[tuple[int, str, int, int]] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    measured: set[int] = field(default_factory=set)
    y: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def of(self, architecture: Architecture, dataset: Any, recipe: Recipe, averaged: bool = False) -> "Script":
        self.made.append({"architecture": architecture, "recipe": recipe, "averaged": averaged})
        self.y = dataset.y
        self._steps = Variable()
        return self

    def begin(self, seed: int) -> None:
        assert seed == 5
        self._steps.assign(np.zeros(1))

    @property
    def state(self) -> list[Variable]:
        return [self._steps]

    def rounds(
        self, train_on: np.ndarray, steps: range, of: int | None, seed: int, grade: str
    ) -> Iterator[tuple[int, dict[str, float]]]:
        assert (of, seed) == (None, 5), "the rate does not fall"
        assert self._steps.value == steps.start, "it goes on from where it was"
        self._now = int(train_on[0]), grade
        self.trained.append((*self._now, steps.start, 0))
        for done in [*range(steps.start + 100, steps.stop, 100), *([steps.stop] if len(steps) else [])]:
            self._steps.assign(np.array([done]))
            self.trained[-1] = (*self._now, steps.start, done - steps.start)
            yield done, {"loss": 1 / done, "accuracy": 0.9}

    def predict_averaged(self, held_out: np.ndarray) -> np.ndarray:
        self.measured.add(len(held_out))
        right = np.arange(len(held_out)) < round(self.says[self._now](int(self._steps.value[0])) * len(held_out))
        return np.eye(2)[np.where(right, self.y[held_out], 1 - self.y[held_out])]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Stop, Script]]:
    """`find_stop` by a script: what it found, and what was trained for it."""

    def ask(
        says: dict[tuple[int, str], Says], images: int = 900, held_in: int | None = None,
        recipe: Recipe = Recipe(), held_out: int = HELD_OUT, **more: Any,  # noqa: B008
    ) -> tuple[Stop, Script]:  # fmt: skip
        script = Script(says)
        monkeypatch.setattr(stopping, "Trainer", script)
        folds = max(fold for fold, _ in says)
        dataset = SimpleNamespace(y=np.arange(10_000) % 2, classes=2)
        rounds = [(np.full(held_in or images, fold), np.arange(held_out)) for fold in range(1, folds + 1)]
        more = {"workers": InThisProcess()} | more
        return find_stop(NETWORK, dataset, rounds, np.arange(images), recipe, 5, **more), script  # type: ignore[arg-type]

    return ask


Asked = Callable[..., tuple[Stop, Script]]
LARGE = 6_000  # images: one grade


def test_until_nothing_better_came_and_the_falling_part_are_how_long_it_is(asked: Asked) -> None:
    stop, script = asked({(1, "light"): peak(900)}, LARGE)
    assert (stop.steps, stop.grade, stop.converged) == (2400, "light", True)
    assert script.trained == [(1, "light", 0, 1800)], "as long again, and nothing was better"
    (curve,) = stop.curves
    assert (curve.name, curve.best, curve.steps) == ("light", (900, 0.8), tuple(range(100, 1801, 100)))
    assert curve.loss == tuple(1 / done for done in curve.steps) and set(curve.accuracy) == {0.9}
    assert script.made == [{"architecture": NETWORK, "recipe": Recipe(), "averaged": True}]


@pytest.mark.parametrize(("held_in", "steps"), [(6_000, 1600), (5_000, 1900), (4_000, 2400)])
def test_more_images_get_more_steps(asked: Asked, held_in: int, steps: int) -> None:
    """As many passes over them as the training that held some out."""
    assert asked({(1, "light"): peak(600)}, LARGE, held_in)[0].steps == steps


def test_something_better_is_waited_for_but_not_for_long(asked: Asked) -> None:
    def dips(again: int) -> Says:
        return lambda done: 0.9 if done == again else min(done, 800) / 1000 - (0.1 if done > 800 else 0)

    stop, script = asked({(1, "light"): dips(1600)}, LARGE, most_steps=4000)
    assert script.trained[0][3] == 3200 and stop.curves[0].best == (1600, 0.9)
    stop, script = asked({(1, "light"): dips(1700)}, LARGE, most_steps=4000)
    assert script.trained[0][3] == 1600 and stop.curves[0].best == (800, 0.8) and stop.converged


def test_a_short_rise_does_not_end_it(asked: Asked) -> None:
    stop, script = asked({(1, "light"): peak(100)}, LARGE)
    assert script.trained[0][3] == stopping.LEAST_STEPS
    assert stop.converged and stop.steps == 1300


@pytest.mark.parametrize(("most", "steps"), [(1000, 1300), (950, 1300), (700, 900), (60, 100), (1, 100)])
def test_the_most_steps_end_it_before_it_has_converged(asked: Asked, most: int, steps: int) -> None:
    stop, script = asked({(1, "light"): rising}, LARGE, most_steps=most)
    assert script.trained == [(1, "light", 0, most)]
    assert (stop.converged, stop.curves[0].steps[-1], stop.steps) == (False, most, steps)


def guessing(until: int = 10**9, accuracy: float = 0.5) -> Says:
    """No better than a guess, of two classes alike, until so many steps are done."""
    return lambda done: accuracy if done < until else 0.9


def test_it_does_not_end_before_there_is_something_better_than_a_guess(asked: Asked) -> None:
    stop, script = asked({(1, "light"): guessing(1600)}, LARGE, most_steps=4000)
    assert script.trained == [(1, "light", 0, 3200)]
    assert (stop.converged, stop.learned, stop.curves[0].best) == (True, True, (1600, 0.9))


@pytest.mark.parametrize(("accuracy", "learned"), [(0.5, False), (0.54, False), (0.55, True)])
def test_what_is_no_better_than_a_guess_by_three_standard_errors_has_learned_nothing(
    asked: Asked, accuracy: float, learned: bool
) -> None:
    """On 1,000 images held out, half of them of each class: 54.7% and more are better."""
    stop, script = asked({(1, "light"): guessing(accuracy=accuracy)}, LARGE, most_steps=1500)
    assert (stop.learned, stop.converged) == (learned, learned)
    assert script.trained[0][3] == (1000 if learned else 1500)


def test_one_fold_that_learns_shows_that_it_can(asked: Asked) -> None:
    says = {(1, "none"): guessing(), (2, "none"): guessing(), (3, "none"): peak(600)}
    stop, _ = asked(says, recipe=Recipe(augment="none"), most_steps=1000)
    assert (stop.learned, stop.converged) == (True, False)


def test_each_fold_is_held_out_and_the_median_taken(asked: Asked) -> None:
    """A third more of two thirds of the images; the grade is chosen on the first fold alone."""
    says = {(1, "light"): peak(1500, 0.7), (1, "strong"): peak(600, 0.8), (2, "strong"): peak(1000),
            (3, "strong"): peak(900)}  # fmt: skip
    stop, script = asked(says, 900, 600)
    assert [trained[:2] for trained in script.trained] == [(1, "light"), (1, "strong"), (2, "strong"), (3, "strong")]
    assert (stop.steps, stop.grade, stop.converged) == (3600, "strong", True)
    assert [curve.name for curve in stop.curves] == [
        "fold 1, light", "fold 1, strong", "fold 2, strong", "fold 3, strong",
    ]  # fmt: skip
    assert [curve.best[0] for curve in stop.curves] == [1500, 600, 1000, 900]
    assert script.made == [{"architecture": NETWORK, "recipe": Recipe(), "averaged": True}] * 4


def test_one_fold_that_did_not_converge_is_said(asked: Asked) -> None:
    says = {(1, "light"): peak(600), (1, "strong"): rising, (2, "light"): rising, (3, "light"): peak(600)}
    stop, _ = asked(says)
    assert (stop.grade, stop.converged) == ("light", False)
    says = {(1, "light"): peak(600), (1, "strong"): rising, (2, "light"): peak(600), (3, "light"): peak(600)}
    assert asked(says)[0].converged, "the grade that was not taken need not have"


def test_of_two_grades_that_are_as_good_the_lighter_one_is_taken(asked: Asked) -> None:
    assert asked({(1, "light"): peak(600), (1, "strong"): peak(900)})[0].grade == "light"


@pytest.mark.parametrize("grade", ["none", "light", "strong"])
def test_a_grade_that_the_recipe_names_is_the_only_one(asked: Asked, grade: Any) -> None:
    stop, script = asked({(1, grade): peak(600), (2, grade): peak(600)}, recipe=Recipe(augment=grade))
    assert stop.grade == grade
    assert [trained[:2] for trained in script.trained] == [(1, grade), (2, grade)]


@pytest.mark.parametrize(("images", "grades"), [(999, ["light", "strong"]), (1_000, ["light"])])
def test_many_images_need_no_strong_grade(asked: Asked, images: int, grades: list[str]) -> None:
    _, script = asked({(1, "light"): peak(600), (1, "strong"): peak(600, 0.9)}, images)
    assert [trained[1] for trained in script.trained] == grades


@pytest.mark.parametrize(("held_out", "measured"), [(300, 300), (8_000, 2_000)])
def test_a_sample_of_many_held_out_images_is_enough(asked: Asked, held_out: int, measured: int) -> None:
    _, script = asked({(1, "light"): peak(600)}, LARGE, held_out=held_out)
    assert script.measured == {measured}


class _CutError(Exception):
    pass


@pytest.mark.parametrize("cut", [1, 11, 12, 13, 25, 35, 48])  # within, at the end and at the start of a training
def test_after_a_break_no_step_is_trained_twice(asked: Asked, tmp_path: Path, cut: int) -> None:
    """Broken off after any round, it finds the same; what was whole before is not trained again."""
    says = {(1, "light"): peak(600), (1, "strong"): peak(700, 0.9), (2, "strong"): peak(400), (3, "strong"): rising}
    more = {"most_steps": 1300, "recipe": Recipe()}
    whole, script = asked(says, **more)
    told: list[tuple[str, int, int]] = []

    def tell(what: str, done: int, most: int) -> None:
        told.append((what, done, most))
        if len(told) == cut:
            raise _CutError

    with pytest.raises(_CutError):
        asked(says, checkpoint=tmp_path, told=tell, **more)
    stop, rest = asked(says, checkpoint=tmp_path, told=tell, **more)
    assert stop == whole
    assert told == [
        (f"looking for when to stop ({curve.name})", done, 1300) for curve in whole.curves for done in curve.steps
    ]
    assert len(told) == 48
    assert sum(steps for *_, steps in script.trained) == 4800
    assert sum(steps for *_, steps in rest.trained) == 4800 - 100 * cut
    again, nothing = asked(says, checkpoint=tmp_path, **more)
    assert again == whole and sum(steps for *_, steps in nothing.trained) == 0


# Where trainings run


class Noting(InThisProcess):
    """Notes which trainings are run together, and whether it was closed.

    Args:
        fails: the training of that number (from 0) does not run, and fails so.
    """

    def __init__(self, fails: tuple[int, Exception] | None = None) -> None:
        self.together: list[list[str]] = []
        self.closed = False
        self._fails = fails
        self._begun = 0

    def run(self, function: Any, calls: Any, told: Any) -> Iterator[Outcome]:
        self.together.append([call[4].name for call in calls])
        for call in calls:
            if self._fails is not None and self._fails[0] == self._begun:
                yield Outcome(None, self._fails[1], 60.0)
            self._begun += 1
            yield from super().run(function, [call], told)

    def close(self) -> None:
        self.closed = True


FOLDS = {(1, "light"): peak(700), (1, "strong"): peak(600, 0.9), (2, "strong"): peak(400), (3, "strong"): peak(900)}


def test_both_grades_are_tried_at_the_same_time_and_then_the_other_folds(asked: Asked) -> None:
    noting = Noting()
    asked(FOLDS, workers=noting)
    assert noting.together == [["fold 1, light", "fold 1, strong"], ["fold 2, strong", "fold 3, strong"]]
    assert noting.closed


@pytest.mark.parametrize("dies", [0, 1, 2, 3])
def test_where_a_process_dies_the_same_command_goes_on(asked: Asked, tmp_path: Path, dies: int) -> None:
    whole, script = asked(FOLDS)
    noting = Noting((dies, Died()))
    words = (
        r"^A training broke off: its process died \(killed, or out of memory\)\. The same command goes on with it\.$"
    )
    with pytest.raises(EdgeNASError, match=words):
        asked(FOLDS, checkpoint=tmp_path, workers=noting)
    assert noting.closed
    stop, rest = asked(FOLDS, checkpoint=tmp_path)
    assert stop == whole
    missing = [(*training[:2], 0, training[3]) for training in script.trained[dies:]]
    assert [training for training in rest.trained if training[3]] == missing


def test_what_a_training_raises_is_raised(asked: Asked) -> None:
    noting = Noting((1, TrainingError("The training of x diverged by step 100: its loss is nan.")))
    with pytest.raises(TrainingError, match="diverged by step 100"):
        asked(FOLDS, workers=noting)
    assert noting.closed


def test_only_several_trainings_need_processes(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(stopping, "Processes", lambda count: started.append(count) or Noting())
    asked({(1, "light"): peak(600)}, LARGE, workers=None)
    assert started == []
    asked({(1, "light"): peak(600), (1, "strong"): peak(600)}, workers=None)
    asked(FOLDS, workers=None)
    asked({(fold, "none"): peak(600) for fold in (1, 2, 3)}, recipe=Recipe(augment="none"), workers=None)
    assert started == [2, 4, 3]


# What it says


def curve(name: str, seen: float, held_out: tuple[float, ...]) -> Curve:
    steps = tuple(range(100, 100 * len(held_out) + 1, 100))
    accuracy = tuple(seen if of == max(held_out) else 0.0 for of in held_out)
    return Curve(name, steps, (1.0,) * len(steps), accuracy, held_out)


def test_advice_where_the_accuracy_still_rose() -> None:
    stop = Stop(
        1300, "light", False, True, (curve("fold 1, light", 0.9, (0.1, 0.2)), curve("fold 2, light", 0.9, (0.1,)))
    )
    assert advice(stop) == (
        "More training may help: after 200 steps the accuracy on images held out still rose. Allow more with "
        "--most-steps."
    )


def test_advice_where_the_training_images_are_known_better() -> None:
    """By the means of the folds at their best steps, of the grade that was taken."""
    curves = (curve("fold 1, light", 0.1, (0.1,)), curve("fold 1, strong", 0.95, (0.5, 0.8, 0.7)),
              curve("fold 2, strong", 0.97, (0.9, 0.8, 0.8)))  # fmt: skip
    assert advice(Stop(700, "strong", True, True, curves)) == (
        "More training would not help, more data would: the network gets 96.0% of its training images right (varied as "
        "they are) and 85.0% of those held out."
    )


def test_advice_where_both_are_known_alike() -> None:
    for seen in (0.6, 0.82):
        said = advice(Stop(700, "light", True, True, (curve("light", seen, (0.5, 0.8, 0.7)),)))
        assert said == (
            f"Neither more training nor more data of this kind would help much: {seen:.1%} of the training images "
            "(varied as they are) and 80.0% of those held out are right. A larger network may get further: a looser "
            "limit."
        )
