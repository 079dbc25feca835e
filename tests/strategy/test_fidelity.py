"""How long candidates are trained: tried on the first networks, by an evaluator that answers from a script."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.errors import CheckFailedError
from edgenas.evaluation.evaluator import Evaluated
from edgenas.evaluation.recipe import Candidate, Recipe
from edgenas.ledger import Ledger
from edgenas.space import MobileSpace
from edgenas.strategy.fidelity import choose_steps, learned

# Of 10 classes, where three standard errors are 0.09, and four and a half 0.135.
GUESSES, BETTER, NOT_YET, CLEARLY = 0.185, 0.195, 0.225, 0.245
FROM_256 = {256: CLEARLY}
FROM_512 = {256: NOT_YET, 512: CLEARLY}
FROM_1024 = {256: GUESSES, 512: NOT_YET, 1024: BETTER}
FROM_4096 = {256: GUESSES, 512: GUESSES, 1024: GUESSES, 4096: BETTER}
NEVER = dict.fromkeys(FROM_4096, GUESSES)
FAILS = {256: None}
TRYING, CHOSEN = "How long do candidates need? {}, {} steps ...", "Better than guessing: every candidate gets {} steps."


def evaluated(balanced_accuracy: float | None) -> Evaluated:
    if balanced_accuracy is None:
        return Evaluated(None, "out of memory", 1.0)
    found = {"accuracy": 0.5, "balanced_accuracy": balanced_accuracy, "chance": 0.1, "chance_error": 0.03, "n": 70}
    return Evaluated(found, None, 1.0)


class Script:
    """An evaluator that knows the balanced accuracy (None: it fails) of each network with so many steps.

    Args:
        answers: by the network's id, then by steps.
    """

    name = "script"
    at_a_time = 1

    def __init__(self, answers: Mapping[str, Mapping[int, float | None]]) -> None:
        self._answers = answers
        self.asked: list[tuple[int, list[str]]] = []

    def evaluate(self, candidates: Sequence[Candidate], steps: int) -> list[Evaluated]:
        ids = [candidate.architecture.id for candidate in candidates]
        self.asked.append((steps, ids))
        return [evaluated(self._answers[name][steps]) for name in ids]

    def close(self) -> None:
        pass


class Choice:
    """What `choose_steps` made of two networks.

    Attributes:
        steps, known: its answer.
        asked: (steps, which networks) of each evaluation, the first network as 0.
        said: sentences.
    """

    def __init__(self, first: Sequence[Candidate], ledger: Ledger) -> None:
        self._first, self._ledger = first, ledger
        self.ids = [candidate.architecture.id for candidate in first]
        self.said: list[str] = []
        self.steps, self.known = 0, dict[str, Evaluated]()

    def make(self, *answers: Mapping[int, float | None], asked: int | None = None) -> "Choice":
        self._script = Script(dict(zip(self.ids, answers, strict=True)))
        self.steps, self.known = choose_steps(self._script, self._first, asked, self._ledger, self.said.append)
        return self

    @property
    def asked(self) -> list[tuple[int, list[int]]]:
        return [(steps, [self.ids.index(name) for name in names]) for steps, names in self._script.asked]

    @property
    def noted(self) -> list[int]:
        return [entry["steps"] for entry in self._ledger.entries("fidelity_chosen")]


@pytest.fixture
def choice(space: MobileSpace, tmp_path: Path) -> Choice:
    drawn = space.decode_codes(space.sample(np.random.default_rng(0), 2))
    return Choice([Candidate(network, "int8", Recipe()) for network in drawn], Ledger(tmp_path / "ledger.jsonl"))


def test_the_first_steps_are_enough_where_both_learn(choice: Choice) -> None:
    choice.make(FROM_256, FROM_256)
    assert choice.asked == [(256, [0, 1])]
    assert (choice.steps, choice.noted) == (256, [256])
    assert choice.said == [TRYING.format("2 first networks", 256), CHOSEN.format(256)]
    assert choice.known == dict.fromkeys(choice.ids, evaluated(CLEARLY))


@pytest.mark.parametrize("waiting", [0, 1])
def test_more_steps_are_tried_with_what_has_not_learned(choice: Choice, waiting: int) -> None:
    answers = [FROM_256, FROM_256]
    answers[waiting] = FROM_512
    choice.make(*answers)
    assert choice.asked == [(256, [0, 1]), (512, [waiting])]
    assert (choice.steps, choice.noted) == (512, [512])
    assert choice.said[1:] == [TRYING.format("1 first network", 512), CHOSEN.format(512)]
    assert choice.known == {choice.ids[waiting]: evaluated(CLEARLY)}, "of the other one it is not known with 512 steps"


def test_on_the_last_rung_a_little_better_is_enough(choice: Choice) -> None:
    choice.make(FROM_1024, FROM_256)
    assert choice.asked == [(256, [0, 1]), (512, [0]), (1024, [0])]
    assert (choice.steps, choice.noted) == (1024, [1024])


def test_they_are_raised_once_more_and_that_is_said(choice: Choice) -> None:
    choice.make(FROM_4096, FROM_4096)
    assert choice.asked == [(256, [0, 1]), (512, [0, 1]), (1024, [0, 1]), (4096, [0, 1])]
    assert (choice.steps, choice.noted) == (4096, [4096])
    assert choice.said[3:] == ["After 1024 steps the first networks are no better than guessing: once more, with 4096.",
                               CHOSEN.format(4096)]  # fmt: skip
    assert set(choice.known) == set(choice.ids)


def test_it_goes_on_where_one_of_them_learned_in_the_end(choice: Choice) -> None:
    choice.make(NEVER, FROM_4096)
    assert (choice.steps, choice.noted) == (4096, [4096])
    assert choice.known == dict(zip(choice.ids, [evaluated(GUESSES), evaluated(BETTER)], strict=True))


def test_one_that_is_slow_to_learn_does_not_raise_all(choice: Choice) -> None:
    choice.make(FROM_512, FROM_4096)
    assert (choice.steps, choice.noted) == (1024, [1024])


def test_where_none_learns_it_ends_with_what_to_do(choice: Choice) -> None:
    with pytest.raises(CheckFailedError) as caught:
        choice.make(NEVER, NEVER)
    said = str(caught.value)
    assert caught.value.exit_code == 4
    assert "After 4096 steps networks drawn by hand are no better than guessing" in said
    assert "(balanced accuracy 18.5% on 70 images held out; a guess gets 10.0%)" in said
    assert "`edgenas data check`" in said and "larger --input or more data" in said
    assert len(choice.said) == 4 and choice.noted == []
    assert [steps for steps, _ in choice.asked] == [256, 512, 1024, 4096]


def test_steps_that_are_asked_for_are_tried_alone(choice: Choice) -> None:
    choice.make({30: BETTER}, {30: BETTER}, asked=30)
    assert choice.asked == [(30, [0, 1])]
    assert (choice.steps, choice.noted) == (30, [30])


def test_steps_that_are_asked_for_are_raised_once_too(choice: Choice) -> None:
    choice.make({30: GUESSES, 120: BETTER}, {30: GUESSES, 120: BETTER}, asked=30)
    assert choice.asked == [(30, [0, 1]), (120, [0, 1])]
    assert (choice.steps, choice.noted) == (120, [120])
    assert choice.said[1:-1] == ["After 30 steps the first networks are no better than guessing: once more, with 120."]


def test_what_was_chosen_is_not_chosen_again(choice: Choice) -> None:
    choice.make(FROM_512, FROM_256)
    choice.make({}, {}, asked=30)  # it would fail if it were asked anything
    assert choice.asked == []
    assert (choice.steps, choice.known, choice.noted) == (512, {}, [512])


def test_what_was_broken_off_is_chosen_anew(choice: Choice) -> None:
    with pytest.raises(KeyError):
        choice.make({256: NOT_YET}, FROM_256)
    assert choice.noted == []
    assert choice.make(FROM_512, FROM_256).steps == 512


def test_a_network_that_fails_does_not_hold_up_the_other(choice: Choice) -> None:
    choice.make(FAILS, FAILS)
    assert (choice.steps, choice.asked) == (256, [(256, [0, 1])])
    assert choice.known == dict.fromkeys(choice.ids, evaluated(None))
    assert choice.noted == [256]


def test_a_network_that_fails_is_not_asked_again_while_the_other_learns(choice: Choice) -> None:
    choice.make(FAILS, FROM_512)
    assert choice.asked == [(256, [0, 1]), (512, [1])]
    assert choice.steps == 512


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (evaluated(BETTER).values, True),
        (evaluated(GUESSES).values, False),
        ({"accuracy": 0.0, "balanced_accuracy": 0.0}, True),
        (None, True),
    ],
    ids=["better", "guesses", "nobody said", "failed"],
)
def test_learning_is_three_standard_errors_above_a_guess(values: dict[str, Any] | None, expected: bool) -> None:
    assert learned(Evaluated(values, None, 0.0)) is expected
