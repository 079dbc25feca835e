"""What a trial's training costs, by a clock that follows a script: nothing is trained here."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.evaluation import pace as pace_module
from edgenas.evaluation.pace import STEPS, Pace, pace
from edgenas.evaluation.recipe import Recipe
from edgenas.space import MobileSpace
from edgenas.space.baselines import hand_made


class Clock:
    """In the place of `monotonic` and of `Trainer`: making one takes 3 s, its first step 10 s, each other one 0.5 s."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.trained: list[tuple[Architecture, Recipe]] = []
        self.steps: list[tuple[range, np.ndarray]] = []

    def monotonic(self) -> float:
        return self.now_s

    def of(self, architecture: Architecture, dataset: Any, recipe: Recipe) -> "Clock":
        self.now_s += 3
        self.trained.append((architecture, recipe))
        return self

    def rounds(self, indices: np.ndarray, steps: range, of: None, seed: int) -> Iterator[tuple[int, dict[str, float]]]:
        self.steps.append((steps, indices))
        self.now_s += sum(0.5 if step else 10 for step in steps)
        yield steps.stop, {}


@pytest.mark.parametrize(("sides", "space"), [((24, 16), "tiny"), ((64, 64), "tiny"), ((96, 128), "standard")])
def test_a_large_network_is_timed_after_its_first_steps(
    monkeypatch: pytest.MonkeyPatch, sides: tuple[int, int], space: str
) -> None:
    clock = Clock()
    monkeypatch.setattr(pace_module, "monotonic", clock.monotonic)
    monkeypatch.setattr(pace_module, "Trainer", clock)
    monkeypatch.setattr(pace_module, "prepare_tensorflow", lambda: None)
    images = np.arange(100)
    dataset = SimpleNamespace(input_shape=(*sides, 1), classes=4)
    splits = SimpleNamespace(rounds=((images[:60], images[60:]), (images[40:], images[:40])))
    found = pace(dataset, splits, Recipe(batch_size=16))  # type: ignore[arg-type]
    assert found == Pace(batch_size=16, folds=2, start_s=3 + 10 + 0.5, step_s=0.5)
    assert found.trial_s(100) == 13.5 + 2 * 100 * 0.5
    drawn = MobileSpace(space, dataset.input_shape, dataset.classes)
    ((network, recipe),) = clock.trained
    assert (network.input_shape, network.classes, recipe) == (dataset.input_shape, 4, Recipe(batch_size=16))
    by_hand = [drawn.decode(drawn.values(codes)) for codes in hand_made(drawn).values()]
    assert network.macs == max(each.macs for each in by_hand)
    assert [steps for steps, _ in clock.steps] == [range(2), range(2, 2 + STEPS)], "in one training"
    assert all((indices == images[:60]).all() for _, indices in clock.steps)
