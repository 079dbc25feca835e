"""The expensive objective: how accurate a candidate gets in a short training, in a process that can be lost."""

import hashlib
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgenas.evaluation.data import Dataset, Splits, metrics, stratified_sample
from edgenas.evaluation.recipe import Candidate, Fidelity
from edgenas.evaluation.training import Indices, Trainer, TrainingError, at_scale, prepare_tensorflow
from edgenas.model import end_with_parent

Rounds = Sequence[tuple[Indices, Indices]]  # what to train on and what to measure on, once each


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        values: those of `metrics`, and `right`: which images were named rightly, as `packed`. None where it failed.
        error: why it failed.
        seconds: it took.
    """

    values: dict[str, Any] | None
    error: str | None
    seconds: float


class Evaluator(Protocol):
    """How a search learns what a candidate is worth. Any failure is an `Evaluated` with an error, never raised."""

    name: str

    def evaluate(self, candidates: Sequence[Candidate], steps: int) -> list[Evaluated]:
        """One result a candidate, in order, after a training of so many steps."""

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
    candidate: Candidate, dataset: Dataset, rounds: Rounds, steps: int, scale: float, seed: int
) -> dict[str, Any]:
    import keras

    keras.backend.clear_session()
    own = seed_of(seed, candidate)
    trainer = Trainer.of(at_scale(candidate.architecture, scale), dataset, candidate.recipe)
    named = []
    for train_on, measure_on in rounds:
        trainer.begin(own)
        trainer.finish(train_on, steps, own)
        named.append(trainer.predict(measure_on).argmax(axis=1))
    measured, found = np.concatenate([measure_on for _, measure_on in rounds]), np.concatenate(named)
    right = found == dataset.y[measured]
    return metrics(dataset.y[measured], found, dataset.classes) | {"right": packed(right)}


def packed(right: np.ndarray[Any, Any]) -> str:
    """bool [n] as hexadecimal digits, the first image in the highest bit."""
    return np.packbits(right).tobytes().hex()


def unpacked(digits: str, n: int) -> np.ndarray[Any, Any]:
    """The bool [n] that `packed` packed."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=n).astype(bool)


class TrainEvaluator:
    """Trains each candidate alone and measures it on the images that are held out: validation, or each fold in turn.

    One worker process lives on from candidate to candidate, since importing TensorFlow takes seconds. When it dies
    (a crash, out of memory), that candidate has failed and the next one gets a new process.

    Args:
        dataset: images and labels.
        splits: says what is trained on and what is held out.
        fidelity: which share of the images, and at which scale.
        seed: the study's.
    """

    name = "train"
    # TensorFlow keeps a little of every model it has seen.
    _TASKS_PER_PROCESS = 50

    def __init__(self, dataset: Dataset, splits: Splits, fidelity: Fidelity, seed: int) -> None:
        self._dataset = dataset
        self._rounds = [
            (_share(dataset, train_on, fidelity.share, seed), held_out) for train_on, held_out in splits.rounds
        ]
        self._scale = fidelity.scale
        self._seed = seed
        self._pool: ProcessPoolExecutor | None = None

    def evaluate(self, candidates: Sequence[Candidate], steps: int) -> list[Evaluated]:
        """Train and measure; see `Evaluator`."""
        return [self._one(candidate, steps) for candidate in candidates]

    def _one(self, candidate: Candidate, steps: int) -> Evaluated:
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
                _evaluate, candidate, self._dataset, self._rounds, steps, self._scale, self._seed
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


def _share(dataset: Dataset, indices: Indices, share: float, seed: int) -> Indices:
    count = max(dataset.classes, round(share * len(indices)))
    return indices if share == 1 else stratified_sample(dataset.y, indices, count, seed)
