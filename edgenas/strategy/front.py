"""The Pareto front: the candidates that no other one beats in everything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgenas.architecture import Architecture
from edgenas.errors import InputError, near
from edgenas.evaluation.evaluator import unpacked


@dataclass(frozen=True)
class Point:
    """A candidate with what was measured (accuracy) and predicted (the rest).

    Attributes:
        id: of the architecture.
        notation: the architecture.
        accuracy: the study's metric on images held out, after the study's short training, a fraction.
        latency_ms: predicted, with `latency_interval_ms` (low, high), both the prediction itself without a certificate.
        arena_kb, model_kb, peak_memory_kb: predicted.
        trial: its number in the study, and the seconds that its evaluation took.
        name: of a network that was drawn by hand; None: the search proposed it.
        accuracy_interval: of the accuracy, coverage 95%: what so few images can tell; None where nobody said.
        right: which of the images it named rightly, as `edgenas.evaluation.evaluator.packed`, of `images`; "" where
            nobody said.
        learned: whether it is better than guessing, by three standard errors.
    """

    id: str
    notation: str
    accuracy: float
    latency_ms: float
    latency_interval_ms: tuple[float, float]
    arena_kb: float
    model_kb: float
    peak_memory_kb: float
    trial: int
    seconds: float = 0.0
    name: str | None = None
    accuracy_interval: tuple[float, float] | None = None
    right: str = field(default="", repr=False)
    images: int = 0
    learned: bool = True

    @property
    def architecture(self) -> Architecture:
        """The network."""
        return Architecture.parse(self.notation)

    @property
    def known_interval_ms(self) -> tuple[float, float] | None:
        """The interval, where there is one: a table without a certificate gives none."""
        low, high = self.latency_interval_ms
        return (low, high) if low < high else None

    @property
    def losses(self) -> tuple[float, float, float]:
        """(-accuracy, latency_ms, peak_memory_kb): lower is better."""
        return (-self.accuracy, self.latency_ms, self.peak_memory_kb)


def _error(one: Point, other: Point) -> float:
    """The standard error of the difference of two accuracies; 0 where nobody said which images were right."""
    if one is other or not one.right or not other.right or one.images != other.images:
        return 0.0
    first, second = (unpacked(point.right, point.images).astype(float) for point in (one, other))
    return float((first - second).std() / one.images**0.5)


class Front(Sequence[Point]):
    """The non-dominated points, by latency."""

    def __init__(self, points: Sequence[Point]) -> None:
        losses = np.array([point.losses for point in points]).reshape(-1, 3)
        kept = []
        for index, own in enumerate(losses):
            beaten = (losses <= own).all(axis=1) & (losses < own).any(axis=1)
            if not beaten.any():
                kept.append(points[index])
        self.points = tuple(sorted(kept, key=lambda point: point.latency_ms))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.points[index]

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    @property
    def tied(self) -> tuple[Point, ...]:
        """The points that the images cannot tell from the most accurate one, and that one.

        Behind it by less than one standard error of the difference, over the same images (as the rule of Breiman et
        al., Classification and Regression Trees, 1984: of what is as good, the simplest).
        """
        most = max(self.points, key=lambda point: (point.accuracy, -point.latency_ms))
        return tuple(point for point in self.points if most.accuracy - point.accuracy <= _error(most, point))

    def pick(self, which: str) -> Point:
        """A point: "best" (the fastest of those that are tied with the most accurate), "knee" (most accuracy for its
        latency) or an id, or its beginning.

        Raises:
            InputError: the front is empty, or has no such point.
        """
        if not self.points:
            raise InputError("The front is empty: no candidate was evaluated yet.")
        if which == "best":
            return min(self.tied, key=lambda point: (point.latency_ms, -point.accuracy))
        if which == "knee":
            return self._knee()
        found = [point for point in self.points if len(which) >= 4 and point.id.startswith(which)]
        if len(found) != 1:
            raise InputError(
                f"The front has no point {which!r}: use best, knee or an id. {near(which, [p.id for p in self.points])}"
            )
        return found[0]

    def _knee(self) -> Point:
        """The point farthest above the line from the fastest to the most accurate one, both axes scaled to 0-1."""
        best = self.pick("best")
        candidates = [point for point in self.points if point.latency_ms <= best.latency_ms]
        fastest = max((p for p in candidates if p.latency_ms == candidates[0].latency_ms), key=lambda p: p.accuracy)
        width = max(best.latency_ms - fastest.latency_ms, 1e-12)
        height = max(best.accuracy - fastest.accuracy, 1e-12)

        def above(point: Point) -> float:
            return (point.accuracy - fastest.accuracy) / height - (point.latency_ms - fastest.latency_ms) / width

        return max(candidates, key=lambda point: (above(point), point.accuracy))
