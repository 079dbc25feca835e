"""The expensive objective: how accurate a candidate gets in a short training, in a process that can be lost."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgenas.evaluation.data import Dataset, Splits, metrics, stratified_sample
from edgenas.evaluation.recipe import Candidate, Fidelity
from edgenas.evaluation.training import Indices, Trainer, TrainingError, at_scale
from edgenas.evaluation.workers import Died, Processes, Told, Workers

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
    at_a_time: int  # candidates

    def evaluate(self, candidates: Sequence[Candidate], steps: int) -> Iterable[Evaluated]:
        """One result a candidate, in order, each as soon as it is there, after a training of so many steps."""

    def close(self) -> None:
        """Let go of processes."""


def seed_of(seed: int, candidate: Candidate) -> int:
    """A seed of the candidate's own, the same whenever in a study it is evaluated."""
    digest = hashlib.sha256(f"{seed} {candidate.architecture.id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 2**31


def _evaluate(
    candidate: Candidate, dataset: Dataset, rounds: Rounds, steps: int, scale: float, seed: int, told: Told
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

    A process that dies (a crash, out of memory) has failed that candidate alone.

    Args:
        dataset: images and labels.
        splits: says what is trained on and what is held out.
        fidelity: which share of the images, and at which scale.
        seed: the study's.
        workers: where they are trained; None: in processes.
    """

    name = "train"

    def __init__(
        self, dataset: Dataset, splits: Splits, fidelity: Fidelity, seed: int, workers: Workers | None = None
    ) -> None:
        self._dataset = dataset
        self._rounds = [
            (_share(dataset, train_on, fidelity.share, seed), held_out) for train_on, held_out in splits.rounds
        ]
        self._scale = fidelity.scale
        self._seed = seed
        self._workers = workers or Processes()
        self.at_a_time = self._workers.count

    def evaluate(self, candidates: Sequence[Candidate], steps: int) -> Iterator[Evaluated]:
        """Train and measure; see `Evaluator`."""
        calls = [(each, self._dataset, self._rounds, steps, self._scale, self._seed) for each in candidates]
        for outcome in self._workers.run(_evaluate, calls, _unheard):
            yield Evaluated(outcome.value, _in_words(outcome.failure), outcome.seconds)

    def close(self) -> None:
        """End the worker processes."""
        self._workers.close()


def _unheard(what: str, done: int, most: int) -> None:
    """A candidate is short: how far it is, nobody asks."""


def _in_words(failure: Exception | None) -> str | None:
    if failure is None:
        return None
    if isinstance(failure, Died | TrainingError):
        return str(failure)
    return f"{type(failure).__name__}: {str(failure).splitlines()[0][:200] if str(failure) else ''}"


def _share(dataset: Dataset, indices: Indices, share: float, seed: int) -> Indices:
    count = max(dataset.classes, round(share * len(indices)))
    return indices if share == 1 else stratified_sample(dataset.y, indices, count, seed)
