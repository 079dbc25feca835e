"""The evaluator: what is trained on what, in a real process that can be lost. For training itself: test_training.py."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest

from edgenas.architecture import Architecture
from edgenas.evaluation import evaluator as evaluating
from edgenas.evaluation.data import Dataset, Splits, above_chance, split, stratified_sample
from edgenas.evaluation.evaluator import Evaluated, TrainEvaluator, packed, seed_of, unpacked
from edgenas.evaluation.recipe import Candidate, Fidelity, Recipe
from edgenas.evaluation.workers import Outcome, Processes
from tests.evaluation.stand_ins import DIES, DIVERGES, RAISES
from tests.waiting import until

MakeEvaluator = Callable[..., TrainEvaluator]
SMALL = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 head_c16_relu6 dense_n10")
CANDIDATE = Candidate(SMALL, "int8", Recipe(batch_size=32))
# Gradients of a residual's input are sums: their order must not depend on which thread is first.
RESIDUAL = Architecture.parse(
    "input_8x8x1 conv_k3_s1_c16_relu6 mbconv_k3_e3_s1_c16_se0.25_relu6 mbconv_k5_e1_s1_c16_relu6 head_c32_relu6 "
    "dense_n10"
)


def doing(batch_size: int) -> Candidate:
    """A candidate that `stand_ins.evaluate` does something else with."""
    return Candidate(SMALL, "int8", Recipe(batch_size=batch_size))


def test_the_same_candidate_gets_the_same_accuracy(digits: Dataset) -> None:
    """A few steps of a real training, in the worker."""
    parts = split(digits, 0)
    evaluator = TrainEvaluator(digits, parts, Fidelity(share=0.5), seed=0, workers=Processes(1))
    candidate = Candidate(RESIDUAL, "int8", Recipe(batch_size=32, learning_rate=0.02))
    try:
        first, again = evaluator.evaluate([candidate, candidate], 40)
    finally:
        evaluator.close()
    assert first.error is None
    assert first.values is not None
    assert first.values["accuracy"] > 0.2, "it has learnt something: a guess is right in one of ten"
    assert first.values == again.values
    assert len(first.values["recall"]) == 10
    assert first.values["n"] == len(parts.validation)
    assert unpacked(first.values["right"], len(parts.validation)).mean() == pytest.approx(first.values["accuracy"])


def found_by(evaluator: TrainEvaluator, *candidates: Candidate, steps: int = 100) -> list[dict[str, Any]]:
    found = [each.values for each in evaluator.evaluate(candidates, steps)]
    assert all(values is not None for values in found)
    return [values for values in found if values is not None]


def test_it_trains_on_the_training_split_and_measures_on_validation(digits: Dataset, answering: MakeEvaluator) -> None:
    """Never on what is sealed, and each candidate on the same images with a seed of its own."""
    parts = split(digits, 0)
    other = Candidate(RESIDUAL, "int8", Recipe(batch_size=32))
    evaluator = answering(seed=3)
    found = found_by(evaluator, CANDIDATE, other, steps=700)
    for values, candidate in zip(found, (CANDIDATE, other), strict=True):
        assert values["rounds"] == [(parts.train.tolist(), parts.validation.tolist())]
        assert (values["steps"], values["data"], values["seed"], values["scale"]) == (700, digits.identity, 3, 1.0)
        assert values["network"] == candidate.architecture.id
    assert found_by(evaluator, CANDIDATE, steps=9)[0]["steps"] == 9, "how many is said each time"
    assert len({values["pid"] for values in found}) == 1  # importing TensorFlow takes seconds
    assert seed_of(3, CANDIDATE) == seed_of(3, CANDIDATE)
    assert len({seed_of(3, CANDIDATE), seed_of(4, CANDIDATE), seed_of(3, other)}) == 3


@pytest.fixture
def folded(digits: Dataset) -> Splits:
    """Splits with three folds of train."""
    parts = split(digits, 0)
    folds = tuple(parts.train[number::3] for number in range(3))
    return dataclasses.replace(parts, validation=parts.train[:0], selection=parts.train[:0], folds=folds)


def test_of_small_data_each_fold_is_held_out_once(folded: Splits, answering: MakeEvaluator) -> None:
    (found,) = found_by(answering(Fidelity(scale=0.5), parts=folded), CANDIDATE)
    assert found["scale"] == 0.5
    assert [held_out for _, held_out in found["rounds"]] == [fold.tolist() for fold in folded.folds]
    for train_on, held_out in found["rounds"]:
        assert sorted([*train_on, *held_out]) == folded.train.tolist()


@pytest.mark.parametrize("folds", [False, True])
def test_a_share_of_the_data_is_the_same_stratified_one(
    digits: Dataset, folded: Splits, answering: MakeEvaluator, folds: bool
) -> None:
    """Of what is trained on: it is measured on all that is held out."""
    parts = folded if folds else split(digits, 0)
    (found,) = found_by(answering(Fidelity(share=0.25), seed=3, parts=parts), CANDIDATE)
    assert len(found["rounds"]) == len(parts.rounds)
    for (chosen, measured), (train_on, held_out) in zip(found["rounds"], parts.rounds, strict=True):
        count = round(0.25 * len(train_on))
        assert chosen == stratified_sample(digits.y, train_on, count, 3).tolist()
        assert set(chosen) < set(train_on.tolist())
        assert np.bincount(digits.y[chosen], minlength=10).min() > 0.8 * count / 10
        assert measured == held_out.tolist()


class FakeTrainer:
    """Knows the class of every image but of each third, and notes what it is asked to do."""

    made: ClassVar[list[tuple[Architecture, Recipe]]] = []
    done: ClassVar[list[Any]] = []

    @classmethod
    def of(cls, architecture: Architecture, dataset: Dataset, recipe: Recipe) -> "FakeTrainer":
        cls.made.append((architecture, recipe))
        trainer = cls()
        trainer.dataset = dataset
        return trainer

    dataset: Dataset

    def begin(self, seed: int) -> None:
        self.done.append(seed)

    def finish(self, indices: np.ndarray, steps: int, seed: int) -> None:
        self.done.append((indices.tolist(), steps, seed))

    def predict(self, indices: np.ndarray) -> np.ndarray:
        named = np.where(indices % 3 == 0, (self.dataset.y[indices] + 1) % 10, self.dataset.y[indices])
        return np.eye(10)[named]


def test_a_candidate_is_trained_anew_for_each_round_and_judged_by_all_of_them(
    digits: Dataset, folded: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "Trainer", FakeTrainer)
    monkeypatch.setattr(FakeTrainer, "made", [])
    monkeypatch.setattr(FakeTrainer, "done", [])
    large = Architecture.parse(str(SMALL).replace("8x8x1", "16x16x1"))
    candidate = Candidate(large, "int8", Recipe(batch_size=32))
    values = evaluating._evaluate(candidate, digits, folded.rounds, 70, 0.5, 3, evaluating._unheard)
    own = seed_of(3, candidate)
    assert FakeTrainer.made == [(SMALL, candidate.recipe)], "once: tracing takes seconds"
    assert FakeTrainer.done == [step for train_on, _ in folded.rounds for step in (own, (train_on.tolist(), 70, own))]
    measured = np.concatenate(folded.folds)
    right = measured % 3 != 0
    assert values["n"] == len(folded.train)
    assert values["accuracy"] == pytest.approx(right.mean())
    assert (unpacked(values["right"], len(measured)) == right).all()
    assert values["chance"] == pytest.approx(0.1) and above_chance(values)
    assert json.loads(json.dumps(values)) == values


@pytest.mark.parametrize("n", [1, 7, 8, 9, 180])
def test_what_was_right_is_packed_a_bit_an_image(n: int) -> None:
    right = np.random.default_rng(n).random(n) < 0.5
    digits = packed(right)
    assert len(digits) == 2 * -(-n // 8)
    assert (unpacked(digits, n) == right).all() and unpacked(digits, n).dtype == bool
    assert packed(np.array([True, False, False, False, False, False, False, True, True])) == "8180"


def test_what_fails_is_one_failed_candidate(answering: MakeEvaluator) -> None:
    """A killed worker, whatever TensorFlow raises, a training that diverges: the next candidate is evaluated."""
    evaluator = answering()
    results = list(evaluator.evaluate([doing(DIES), CANDIDATE, doing(RAISES), doing(DIVERGES), CANDIDATE], 100))
    assert [result.error for result in results] == [
        "its process died (killed, or out of memory)",
        None,
        "MemoryError: no room for a tensor",
        "The training of x diverged by step 100: its loss is nan.",
        None,
    ]
    assert [result.values is None for result in results] == [True, False, True, True, False]
    assert results[1].values == results[4].values  # by the same process
    evaluator.close()
    until(lambda: not psutil.pid_exists(results[1].values["pid"]), "the worker ended with its evaluator")
    evaluator.close()  # twice does no harm


class Scripted:
    """Workers whose outcomes are there already, and of which it is noted which were asked for.

    Attributes:
        given: how many outcomes.
        calls: what was to be run.
    """

    count = 3

    def __init__(self) -> None:
        self.given = 0
        self.closed = False
        self.calls: Sequence[tuple[Any, ...]] = ()

    def run(self, function: Any, calls: Sequence[tuple[Any, ...]], told: Any) -> Iterator[Outcome]:
        self.calls = calls
        for number in range(len(calls)):
            self.given += 1
            yield Outcome({"accuracy": number}, None, 60.0 + number)

    def close(self) -> None:
        self.closed = True


def test_each_result_is_given_as_soon_as_it_is_there(digits: Dataset) -> None:
    workers = Scripted()
    evaluator = TrainEvaluator(digits, split(digits, 0), Fidelity(), 0, workers)
    assert evaluator.at_a_time == 3
    results = evaluator.evaluate([CANDIDATE, doing(64)], 100)
    assert next(results) == Evaluated({"accuracy": 0}, None, 60.0)
    assert workers.given == 1
    assert next(results) == Evaluated({"accuracy": 1}, None, 61.0)
    assert [call[0] for call in workers.calls] == [CANDIDATE, doing(64)]
    evaluator.close()
    assert workers.closed
