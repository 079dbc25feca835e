"""The expensive objective: how accurate a candidate gets in a short training, in a process that can be lost."""

import hashlib
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from edgenas.evaluation.data import Dataset, Splits, stratified_sample
from edgenas.evaluation.recipe import Candidate, Fidelity
from edgenas.evaluation.training import Indices, TrainingError, measure, prepare_tensorflow, train
from edgenas.model import end_with_parent


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        values: `accuracy`, `balanced_accuracy`, `recall`, `n`; None where it failed.
        error: why it failed.
        seconds: it took.
    """

    values: dict[str, Any] | None
    error: str | None
    seconds: float


class Evaluator(Protocol):
    """How a search learns what a candidate is worth. Any failure is an `Evaluated` with an error, never raised."""

    name: str

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluated]:
        """One result a candidate, in order."""

    def close(self) -> None:
        """Let go of processes."""


def seed_of(seed: int, candidate: Candidate) -> int:
    """A seed of the candidate's own, the same whenever in a study it is evaluated."""
    digest = hashlib.sha256(f"{seed} {candidate.architecture.id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 2**31


def _start_worker() -> None:
    end_with_parent()
    prepare_tensorflow()


def _evaluate(
    candidate: Candidate, dataset: Dataset, train_on: Indices, measure_on: Indices, fidelity: Fidelity, seed: int
) -> dict[str, Any]:
    import keras

    keras.backend.clear_session()
    model = train(
        candidate.architecture,
        dataset,
        train_on,
        candidate.recipe,
        fidelity.epochs,
        seed_of(seed, candidate),
        scale=fidelity.scale,
    )
    return measure(model, dataset, measure_on)


class TrainEvaluator:
    """Trains each candidate alone for a `Fidelity` and measures it on the validation split.

    One worker process lives on from candidate to candidate, since importing TensorFlow takes seconds. When it dies
    (a crash, out of memory), that candidate has failed and the next one gets a new process.

    Args:
        dataset: images and labels.
        splits: trains on `train`, measures on `validation`.
        fidelity: how much training.
        seed: the study's.
    """

    name = "train"
    # TensorFlow keeps a little of every model it has seen.
    _TASKS_PER_PROCESS = 50

    def __init__(self, dataset: Dataset, splits: Splits, fidelity: Fidelity, seed: int) -> None:
        self._dataset = dataset
        count = max(dataset.classes, round(fidelity.share * len(splits.train)))
        self._train_on = (
            splits.train if fidelity.share == 1 else stratified_sample(dataset.y, splits.train, count, seed)
        )
        self._measure_on = splits.validation
        self._fidelity = fidelity
        self._seed = seed
        self._pool: ProcessPoolExecutor | None = None

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluated]:
        """Train and measure; see `Evaluator`."""
        return [self._one(candidate) for candidate in candidates]

    def _one(self, candidate: Candidate) -> Evaluated:
        start = time.monotonic()
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=1,
                # Spawned, not forked: TensorFlow does not survive a fork.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                max_tasks_per_child=self._TASKS_PER_PROCESS,
            )
        values: dict[str, Any] | None = None
        error: str | None = None
        try:
            future = self._pool.submit(
                _evaluate, candidate, self._dataset, self._train_on, self._measure_on, self._fidelity, self._seed
            )
            values = future.result()
        except BrokenProcessPool:
            self._pool = None
            error = "its process died (killed, or out of memory)"
        except TrainingError as failure:
            error = str(failure)
        except Exception as failure:  # noqa: BLE001  whatever TensorFlow raises is this candidate's failure alone
            error = f"{type(failure).__name__}: {str(failure).splitlines()[0][:200] if str(failure) else ''}"
        return Evaluated(values, error, round(time.monotonic() - start, 3))

    def close(self) -> None:
        """End the worker process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
