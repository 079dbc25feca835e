"""Digits, small; and an evaluator whose worker trains nothing."""

from collections.abc import Callable, Iterator

import pytest

import edgenas.evaluation.evaluator as evaluating
from edgenas.evaluation import workers
from edgenas.evaluation.data import Dataset, Splits, load_dataset, split
from edgenas.evaluation.evaluator import TrainEvaluator
from edgenas.evaluation.recipe import Fidelity
from edgenas.evaluation.workers import Processes
from tests.evaluation import stand_ins


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset("digits", (8, 8, 1), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def answering(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TrainEvaluator]]:
    """Evaluators whose one worker process is real, and whose training is `stand_ins.evaluate`."""
    monkeypatch.setattr(workers, "_start", stand_ins.start)
    monkeypatch.setattr(evaluating, "_evaluate", stand_ins.evaluate)
    made: list[TrainEvaluator] = []

    def make(fidelity: Fidelity = Fidelity(), seed: int = 0, parts: Splits | None = None) -> TrainEvaluator:  # noqa: B008
        made.append(TrainEvaluator(digits, parts or split(digits, 0), fidelity, seed, Processes(1)))
        return made[-1]

    yield make
    for evaluator in made:
        evaluator.close()
