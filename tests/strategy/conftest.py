"""A space, a table whose costs are made up (and say so), and an evaluator that is quick and deterministic."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from edgenas.evaluation.evaluator import Evaluated, packed
from edgenas.evaluation.recipe import Candidate
from edgenas.latency.table import Entry, LatencyTable
from edgenas.latency.table.certificate import Certificate, Network
from edgenas.space import MobileSpace
from edgenas.strategy import Limits, Point, Settings, Study, study
from edgenas.strategy.objectives import FreeObjectives
from tests.latency.conftest import IDENTITY


class Formula:
    """Accuracy from a formula: larger networks do better, with a wobble of the architecture's own.

    Args:
        accuracy: another formula.
    """

    name = "formula"
    at_a_time = 1

    def __init__(self, accuracy: Callable[[Candidate], float] | None = None) -> None:
        self.seen: list[str] = []
        self.steps: list[int] = []  # of each that was seen
        self.candidates: list[Candidate] = []
        self._accuracy = accuracy

    def evaluate(self, candidates: Sequence[Candidate], steps: int) -> Iterator[Evaluated]:
        """One candidate after the other, each when its result is asked for."""
        for candidate in candidates:
            self.seen.append(candidate.architecture.id)
            self.steps.append(steps)
            self.candidates.append(candidate)
            yield self.one(candidate)

    def one(self, candidate: Candidate) -> Evaluated:
        """The result of a candidate, the last one of those seen."""
        return Evaluated(self.values(candidate), None, 0.0)

    def values(self, candidate: Candidate) -> dict[str, object]:
        found = values(candidate)
        return found if self._accuracy is None else found | {"accuracy": self._accuracy(candidate)}

    def close(self) -> None:
        pass


class Learner(Formula):
    """Networks that guess, on 100 images of 10 classes, until they had enough steps.

    Args:
        needs: how many steps a candidate needs.
    """

    def __init__(self, needs: Callable[[Candidate], float]) -> None:
        super().__init__()
        self._needs = needs

    def values(self, candidate: Candidate) -> dict[str, object]:
        found = values(candidate)
        if self.steps[-1] < self._needs(candidate):
            found |= {"accuracy": 0.1, "balanced_accuracy": 0.1}
        right = np.arange(100) < 100 * float(str(found["accuracy"]))
        return found | {"chance": 0.1, "chance_error": 0.03, "right": packed(right)}


def values(candidate: Candidate) -> dict[str, object]:
    wobble = int(candidate.architecture.id, 16) % 1000 / 1e5
    accuracy = 1 - 1 / float(np.log(candidate.architecture.macs)) + wobble
    return {"accuracy": accuracy, "balanced_accuracy": accuracy, "recall": [accuracy], "n": 100}


def point(number: int, accuracy: float, latency_ms: float, memory_kb: float = 100) -> Point:
    """A candidate of which nobody said which images it named rightly."""
    name = f"{number:012x}"
    return Point(name, "none", accuracy, latency_ms, (latency_ms * 0.9, latency_ms * 1.1), 1, 1, memory_kb, number)


def measured(number: int, wrong: Iterable[int], latency_ms: float, memory_kb: float = 100) -> Point:
    """A candidate that named 100 images, all but these of them rightly."""
    right = np.ones(100, bool)
    right[list(wrong)] = False
    made = point(number, float(right.mean()), latency_ms, memory_kb)
    return dataclasses.replace(made, right=packed(right), images=100)


@pytest.fixture(scope="session")
def space() -> MobileSpace:
    return MobileSpace("tiny", (28, 28, 1), 10)


def made_up(space: MobileSpace) -> LatencyTable:
    """A table of a space, whose costs follow from the layers' MACs; 7x7 kernels are slow."""
    entries = {}
    for layer in space.layers():
        entries[layer] = Entry(1 + layer.macs / 1e4 * (5 if "_k7_" in str(layer) else 1), 0.01, 1.0)
    drawn = space.decode_codes(space.sample(np.random.default_rng(0), 10))
    errors = np.linspace(-0.04, 0.04, 10)
    networks = tuple(Network(str(a), 1.0, 1.0, 1.0 + float(e)) for a, e in zip(drawn, errors, strict=True))
    return LatencyTable(
        IDENTITY, "simulated", ("none", 100.0), 1.0, entries, certificate=Certificate(networks, networks)
    )


@pytest.fixture(scope="session")
def table(space: MobileSpace) -> LatencyTable:
    return made_up(space)


@pytest.fixture(scope="session")
def slow_stem(table: LatencyTable) -> LatencyTable:
    """A device where the smallest network is slow: its stem takes 5 ms."""
    entries = {
        layer: dataclasses.replace(entry, us=entry.us + 5000 * str(layer).startswith("conv_k3_s2"))
        for layer, entry in table.entries.items()
    }
    return dataclasses.replace(table, entries=entries)


@pytest.fixture(scope="session")
def half(space: MobileSpace, table: LatencyTable) -> Limits:
    """A limit on latency that half the space breaks."""
    drawn = space.sample(np.random.default_rng(1), 1000)
    ends = table.estimate_codes_ms(space, drawn) * table.interval_factor(0.9)
    return Limits(max_latency_ms=float(np.median(ends)))


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies are kept for the test alone: SQLite would take most of its time."""
    studies: dict[str, optuna.Study] = {}

    def open_storage(folder: Path, name: str, create: bool = False) -> optuna.Study:
        if name not in studies:
            studies[name] = optuna.create_study(study_name=name, directions=list(study.OBJECTIVES.values()))
        return studies[name]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monkeypatch.setattr(study, "open_storage", open_storage)


@pytest.fixture
def make_study(space: MobileSpace, table: LatencyTable, half: Limits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def make(
        name: str = "s", strategy: str = "nsga2", trials: int = 30, limits: Limits = half, **changes: Any
    ) -> Study:
        settings = Settings(
            study=name, data="none", device="board", table="none", space="tiny", input_shape=(28, 28, 1),
            trials=trials, strategy=strategy, limits=limits, **changes,
        )  # fmt: skip
        return Study(settings, space, FreeObjectives(space, table, "int8", limits))

    return make
