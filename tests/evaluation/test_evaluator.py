"""The evaluator: what is trained on what, in a real process that can be lost. For training itself: test_training.py."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from edgenas.architecture import Architecture
from edgenas.evaluation.data import Dataset, split, stratified_sample
from edgenas.evaluation.evaluator import TrainEvaluator, seed_of
from edgenas.evaluation.recipe import Candidate, Fidelity, Recipe
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
    evaluator = TrainEvaluator(digits, parts, Fidelity(epochs=2, share=0.5), seed=0)
    candidate = Candidate(RESIDUAL, "int8", Recipe(batch_size=32, learning_rate=0.02))
    try:
        first, again = evaluator.evaluate([candidate, candidate])
    finally:
        evaluator.close()
    assert first.error is None
    assert first.values is not None
    assert first.values["accuracy"] > 0.2, "it has learnt something: a guess is right in one of ten"
    assert first.values == again.values
    assert len(first.values["recall"]) == 10
    assert first.values["n"] == len(parts.validation)


def test_it_trains_on_the_training_split_and_measures_on_validation(digits: Dataset, answering: MakeEvaluator) -> None:
    """Never on what is sealed, and each candidate on the same images with a seed of its own."""
    parts = split(digits, 0)
    other = Candidate(RESIDUAL, "int8", Recipe(batch_size=32))
    found = [each.values for each in answering(Fidelity(epochs=7), seed=3).evaluate([CANDIDATE, other])]
    assert all(values is not None for values in found)
    for values, candidate in zip(found, (CANDIDATE, other), strict=True):
        assert values is not None
        assert (values["train_on"], values["measure_on"]) == (parts.train.tolist(), parts.validation.tolist())
        assert (values["epochs"], values["data"], values["seed"]) == (7, digits.identity, 3)
        assert values["network"] == candidate.architecture.id
    assert len({values["pid"] for values in found if values}) == 1  # importing TensorFlow takes seconds
    assert seed_of(3, CANDIDATE) == seed_of(3, CANDIDATE)
    assert len({seed_of(3, CANDIDATE), seed_of(4, CANDIDATE), seed_of(3, other)}) == 3


def test_a_share_of_the_data_is_the_same_stratified_one(digits: Dataset, answering: MakeEvaluator) -> None:
    parts = split(digits, 0)
    (found,) = answering(Fidelity(share=0.25), seed=3).evaluate([CANDIDATE])
    assert found.values is not None
    count = round(0.25 * len(parts.train))
    assert found.values["train_on"] == stratified_sample(digits.y, parts.train, count, 3).tolist()
    assert set(found.values["train_on"]) < set(parts.train.tolist())
    assert np.bincount(digits.y[found.values["train_on"]], minlength=10).min() > 0.8 * count / 10


def test_what_fails_is_one_failed_candidate(answering: MakeEvaluator) -> None:
    """A killed worker, whatever TensorFlow raises, a training that diverges: the next candidate is evaluated."""
    evaluator = answering()
    results = evaluator.evaluate([doing(DIES), CANDIDATE, doing(RAISES), doing(DIVERGES), CANDIDATE])
    assert [result.error for result in results] == [
        "its process died (killed, or out of memory)",
        None,
        "MemoryError: no room for a tensor",
        "The training of x diverged in epoch 1: its loss is nan.",
        None,
    ]
    assert [result.values is None for result in results] == [True, False, True, True, False]
    assert results[1].values == results[4].values  # by the same process
    evaluator.close()
    until(lambda: not psutil.pid_exists(results[1].values["pid"]), "the worker ended with its evaluator")
    evaluator.close()  # twice does no harm


SCRIPT = """
from pathlib import Path
from edgenas.evaluation import evaluator
from edgenas.evaluation.data import Dataset, load_dataset, split
from edgenas.evaluation.recipe import Fidelity
from tests.evaluation import stand_ins, test_evaluator

if __name__ == "__main__":
    evaluator._start_worker, evaluator._evaluate = evaluator.end_with_parent, stand_ins.evaluate
    digits = load_dataset("digits", (8, 8, 1), cache=Path("cache"))
    made = evaluator.TrainEvaluator(digits, split(digits, 0), Fidelity(), seed=0)
    made.evaluate([test_evaluator.doing(stand_ins.HANGS)])
"""


def test_the_worker_ends_when_its_search_is_killed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("search")
    (folder / "search.py").write_text(SCRIPT)
    search = subprocess.Popen([sys.executable, "search.py"], cwd=folder, stdout=subprocess.PIPE)
    assert search.stdout is not None
    worker = psutil.Process(int(search.stdout.readline()))
    assert search.pid in {parent.pid for parent in worker.parents()}
    search.kill()
    search.wait()
    search.stdout.close()
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker ended")
