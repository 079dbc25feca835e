"""Networks drawn by hand are tried first, within the limits, and named wherever they are shown."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from edgenas.architecture import MBConv
from edgenas.cli.searching import accuracy_of, added
from edgenas.report import front_rows
from edgenas.space import MobileSpace
from edgenas.space.baselines import SIZES, hand_made, hand_made_within
from edgenas.strategy import Limits, Point, Study, study
from tests.strategy.conftest import Formula

MakeStudy = Callable[..., Study]
SPACES = [MobileSpace("tiny", (28, 28, 1), 10), MobileSpace("standard", (96, 96, 3), 5)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_they_are_of_the_space_and_what_their_names_say(space: MobileSpace) -> None:
    drawn = hand_made(space)
    assert len(drawn) == 16 and len({tuple(code) for code in drawn.values()}) == 16
    for name, code in drawn.items():
        network = space.decode(space.values(code))
        assert (space.encode([network])[0] == code).all()
        blocks = [node.block for node in network.nodes if isinstance(node.block, MBConv)]
        assert {(block.kernel, block.se_ratio) for block in blocks} == {(3, 0.0)}
        expansions = {block.expansion for block in blocks}
        assert expansions == ({1, 6} if name.startswith("MobileNetV2") else {1}), name
    for family in ("MobileNetV2-like", "MobileNetV1-like"):
        macs = [space.decode(space.values(code)).macs for name, code in drawn.items() if name.startswith(family)]
        assert macs == sorted(macs, reverse=True)


def test_the_largest_that_keep_the_limits_are_taken_in_turn() -> None:
    space = SPACES[0]
    drawn = hand_made(space)

    def excess(codes: np.ndarray) -> np.ndarray:
        return np.array([network.macs for network in space.decode_codes(codes)]) / 2e6 - 1

    kept = hand_made_within(space, excess, 5)
    v2, v1 = ([name for name in drawn if name.startswith(f"MobileNetV{number}")] for number in (2, 1))
    within = [[name for name in names if excess(drawn[name][None])[0] <= 0] for names in (v2, v1)]
    assert len(within[0]) < len(v2) and len(within[1]) == len(v1)
    first, second = (names[:SIZES] for names in within)
    assert list(kept) == [first[0], second[0], first[1], second[1], first[2]]
    assert hand_made_within(space, lambda codes: np.ones(len(codes)), 5) == {}
    assert list(hand_made_within(space, excess, 1)) == [first[0]]


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize("strategy", ["random", "nsga2", "tpe"])
def test_a_search_begins_with_them(make_study: MakeStudy, space: MobileSpace, half: Limits, strategy: str) -> None:
    made = make_study(strategy=strategy, trials=14)
    evaluator = Formula()
    made.run(evaluator)
    names = [point.name for point in sorted(made.points, key=lambda point: point.trial)]
    assert all(names[: study.HAND_MADE]) and not any(names[study.HAND_MADE :])
    drawn = hand_made(space)
    for point in made.points[: study.HAND_MADE]:
        assert space.decode(space.values(drawn[str(point.name)])).id == point.id
        assert point.latency_interval_ms[1] <= half.max_latency_ms
    assert len({candidate.architecture.id for candidate in evaluator.candidates}) == 14, "none is tried twice"
    rows = {row["id"]: row["name"] for row in front_rows(made.front)}
    assert rows == {point.id: point.name for point in made.front}


@pytest.mark.usefixtures("in_memory")
def test_at_most_half_of_the_trials_are_drawn_by_hand(make_study: MakeStudy) -> None:
    made = make_study(trials=4)
    made.run(Formula())
    assert sum(point.name is not None for point in made.points) == 2


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_accuracies_in_the_front_have_the_metric_s_interval(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    made = make_study(trials=3)
    made.settings = dataclasses.replace(made.settings, metric=metric)
    evaluator = Formula()
    found = evaluator.values
    intervals = {"accuracy_interval": [0.1, 0.2], "balanced_accuracy_interval": [0.3, 0.4]}
    monkeypatch.setattr(evaluator, "values", lambda candidate: found(candidate) | intervals)
    made.run(evaluator)
    expected = intervals[f"{metric}_interval"]
    assert {point.accuracy_interval for point in made.points} == {(expected[0], expected[1])}
    assert all(row["accuracy_interval"] == expected for row in front_rows(made.front))
    assert accuracy_of(dataclasses.replace(made.points[0], accuracy=0.35)) == "35.0±5.0%"
    assert accuracy_of(point(0, 0.5, 1.0, None)) == "50.0%", "where nobody said"


def point(number: int, accuracy: float, latency_ms: float, name: str | None) -> Point:
    return Point(str(number), "", accuracy, latency_ms, (latency_ms, latency_ms), 1, 1, 1, number, 0.0, name)


def test_what_the_search_added_is_said() -> None:
    drawn = [point(0, 0.70, 0.2, "MobileNetV2-like 1x"), point(1, 0.60, 0.1, "MobileNetV1-like 1x")]
    found = [point(2, 0.90, 0.3, None), point(3, 0.74, 0.19, None)]
    assert added([*drawn, *found]) == (
        "The best drawn by hand (MobileNetV2-like 1x): 70.0% at 0.200 ms. The best that was proposed: 90.0% at 0.300 "
        "ms (+20.0 points)."
    )
    assert added(drawn) == added(found) == added([]) == ""
