"""`edgenas search` as a user types it: what its options mean, and what it says; its candidates learn by a script."""

import math
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from edgenas.cli.searching import tied
from edgenas.evaluation.recipe import Candidate, Fidelity, Recipe
from edgenas.space import MobileSpace
from edgenas.strategy import Final, Front, Settings, load_settings, searching
from tests.strategy.conftest import Learner, made_up, measured
from tests.terminal import Terminal

WORDS = ("search", "--study", "s", "--data", "digits", "--policy", "fit", "--device", "board", "--input", "28x28x1",
         "--trials", "4", "--strategy", "random")  # fmt: skip
GIVEN = ("--steps", "40", "--share", "0.5", "--scale", "0.75", "--balance-classes", "--flip", "--augment", "strong",
         "--mixup", "0.2", "--batch-size", "16", "--learning-rate", "0.003", "--weight-decay", "0.1",
         "--final-steps", "900", "--most-steps", "2000")  # fmt: skip


class User(Terminal):
    """In a project with a device and its table; what a search's candidates learn is said by `needs`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.needs: Callable[[Candidate], float] = lambda _: 0
        self.evaluators: list[tuple[Fidelity, Learner]] = []

    def evaluator(self, dataset: Any, splits: Any, fidelity: Fidelity, seed: int) -> Learner:
        self.evaluators.append((fidelity, Learner(self.needs)))
        return self.evaluators[-1][1]

    @property
    def settings(self) -> Settings:
        with chdir(self.folder):
            return load_settings("s")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    assert Terminal(folder).types("device", "add", "board", "ssh://nobody@127.0.0.1:1").returncode == 0
    made_up(MobileSpace("tiny", (28, 28, 1), 10)).save(folder / "latency_tables" / "t.json")
    return folder


@pytest.fixture
def user(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    """With the project, without any study."""
    for name in ("devices", "latency_tables", ".edgenas"):
        (project / name).mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(project / name)
    made = User(tmp_path)
    monkeypatch.setattr(searching, "TrainEvaluator", made.evaluator)
    return made


def test_what_is_not_given_is_left_to_the_data(user: User) -> None:
    user.gets(*WORDS)
    begun = user.settings
    assert (begun.fidelity, begun.recipe, begun.final) == (Fidelity(), Recipe(), Final())
    ((fidelity, evaluator),) = user.evaluators
    assert fidelity == Fidelity()
    assert evaluator.steps == [256] * 4


def test_every_option_of_training_is_kept_and_followed(user: User) -> None:
    user.gets(*WORDS, *GIVEN)
    begun = user.settings
    assert begun.fidelity == Fidelity(steps=40, share=0.5, scale=0.75)
    assert begun.recipe == Recipe(
        batch_size=16, learning_rate=0.003, weight_decay=0.1, augment="strong", flip=True, mixup=0.2,
        balance_classes=True,
    )  # fmt: skip
    assert begun.final == Final(steps=900, most_steps=2000)
    ((fidelity, evaluator),) = user.evaluators
    assert fidelity == begun.fidelity
    assert evaluator.steps == [40] * 4
    assert {candidate.recipe for candidate in evaluator.candidates} == {begun.recipe}
    user.is_refused(2, "fidelity was {'steps': 40", *WORDS, *GIVEN[2:])
    user.gets(*WORDS, *GIVEN)
    assert user.evaluators[1][1].steps == [], "it goes on where it was: it is done"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "0"), "0 is not in the range x>=1"),
        (("--final-steps", "0"), "0 is not in the range x>=1"),
        (("--most-steps", "0"), "0 is not in the range x>=1"),
        (("--batch-size", "1"), "1 is not in the range x>=2"),
        (("--learning-rate", "0"), "0.0 is not in the range x>0"),
        (("--weight-decay", "-1"), "-1.0 is not in the range x>=0"),
        (("--mixup", "-1"), "-1.0 is not in the range x>=0"),
        (("--augment", "wild"), "'wild' is not one of 'none', 'light', 'strong'"),
        (("--share", "0"), "share and scale in (0, 1]"),
        (("--epochs", "3"), "No such option"),
        (("--final-epochs", "3"), "No such option"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused(user: User, words: tuple[str, ...], said: str) -> None:
    user.is_refused(2, said, *WORDS, *words)
    assert not (user.folder / "studies").exists()


def test_it_says_that_steps_were_raised(user: User) -> None:
    user.needs = lambda _: 1025
    done = user.types(*WORDS)
    assert done.returncode == 0, done.stderr
    said = "After 1024 steps the first networks are no better than guessing: once more, with 4096."
    assert done.stderr.splitlines().count(said) == 1
    assert "(no better than guessing)" not in done.stderr and "are tied" not in done.stdout


def test_where_nothing_learns_it_ends_with_exit_code_4_and_advice(user: User) -> None:
    user.needs = lambda _: math.inf
    done = user.types(*WORDS, "--steps", "30")
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edgenas: ")]
    assert line.startswith("edgenas: After 120 steps networks drawn by hand are no better than guessing")
    assert "`edgenas data check`" in line, "the advice is part of the one line"
    assert "trial " not in done.stderr


def test_a_trial_that_only_guesses_is_said_to(user: User) -> None:
    """Those that were tried first learn; what is proposed later does not."""
    first: list[str] = []

    def needs(candidate: Candidate) -> float:
        first.append(candidate.architecture.id)
        return 0 if candidate.architecture.id in first[:2] else math.inf

    user.needs = needs
    lines = [line for line in user.types(*WORDS).stderr.splitlines() if line.startswith("trial ")]
    assert len(lines) == 4
    for line in lines:
        guesses = not any(name in line for name in first[:2])
        assert (" 10.0% (no better than guessing), " in line) is guesses, line
    assert len([line for line in lines if "guessing" in line]) == 2


def test_that_the_best_cannot_be_told_apart_is_said() -> None:
    most, close = measured(0, range(4), 9), measured(1, range(2, 8), 2)
    assert tied(Front([most, close])) == (
        "The 2 most accurate of the front are tied: 100 images cannot tell them apart. "
        '"best" is the fastest of them, 000000000001.'
    )
    assert tied(Front([most])) == tied(Front([most, measured(1, range(6), 2)])) == tied(Front([])) == ""


def test_ties_are_said_below_the_front(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    user.gets(*WORDS)
    monkeypatch.setattr("edgenas.cli.searching.tied", lambda front: f"{len(front)} TIED")
    front = user.gets("pareto", "s")["front"]
    assert f"{len(front)} TIED\n" in user.types("pareto", "s").stdout
