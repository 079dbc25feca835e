"""What a device answers is checked before it is believed."""

import copy
import math
from typing import Any

import pytest

from edgenas.errors import DeviceError
from edgenas.latency.rounds import geometric_mean, read_rounds

GOOD: dict[str, Any] = {
    "visits_us": [[10.0, 40.0], [20.0, 80.0], [11.0, 44.0]],
    "reference_at": [[10.0, 10.0], [20.0, 20.0], [11.0, 11.0]],
    "reference_us": [[10.0, 10.0], [20.0, 20.0], [11.0, 11.0]],
    "failed": {},
}


def changed(**parts: Any) -> dict[str, Any]:
    return copy.deepcopy(GOOD) | parts


def test_a_drift_that_all_share_is_divided_out() -> None:
    rounds = read_rounds(GOOD, 2, 1.5)
    assert [ratio.value for ratio in rounds.ratios if ratio] == [1.0, 4.0]
    assert [ratio.spread for ratio in rounds.ratios if ratio] == [0.0, 0.0]
    assert rounds.reference_us == 11.0
    assert rounds.reference_spread > 0
    assert (rounds.failed, rounds.busy_s) == ({}, 1.5)


def test_a_model_that_failed_is_none_and_named() -> None:
    answer = changed(
        visits_us=[[None, 40.0], [None, 80.0]],
        reference_at=[[None, 10.0], [None, 20.0]],
        failed={"0": "its process died (signal 11)"},
    )
    rounds = read_rounds(answer, 2, 1.0)
    assert rounds.ratios[0] is None
    assert rounds.ratios[1] is not None
    assert rounds.ratios[1].value == 4.0
    assert rounds.failed == {0: "its process died (signal 11)"}


@pytest.mark.parametrize("name", ["visits_us", "reference_at", "reference_us"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_time_that_no_clock_gives_is_refused(name: str, value: float) -> None:
    answer = changed()
    answer[name][1][0] = value
    with pytest.raises(DeviceError, match="not positive and finite"):
        read_rounds(answer, 2, 1.0)


@pytest.mark.parametrize(
    "parts",
    [
        {"visits_us": []},
        {"visits_us": [[10.0], [20.0], [11.0]]},
        {"visits_us": [[10.0, 40.0], [20.0]]},
        {"visits_us": None},
        {"visits_us": 3},
        {"visits_us": [["fast", "slow"]] * 3},
        {"visits_us": [[{}, []]] * 3},
        {"visits_us": [10.0, 20.0]},
        {"reference_at": [[10.0, 10.0]]},
        {"reference_at": [[10.0, 10.0]] * 4},
        {"reference_us": None},
        {"reference_us": [10.0, 20.0]},
        {"reference_us": [["x"]]},
        {"failed": {"first": "died"}},
        {"failed": []},
        {"failed": None},
    ],
)
def test_an_answer_of_another_shape_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match="makes no sense"):
        read_rounds(changed(**parts), 2, 1.0)


@pytest.mark.parametrize("name", list(GOOD))
def test_a_missing_part_is_refused(name: str) -> None:
    answer = changed()
    del answer[name]
    with pytest.raises(DeviceError, match="makes no sense"):
        read_rounds(answer, 2, 1.0)


@pytest.mark.parametrize("name", ["visits_us", "reference_at"])
def test_a_missing_time_is_not_taken_for_one(name: str) -> None:
    answer = changed()
    answer[name][2][1] = None
    with pytest.raises(DeviceError):
        read_rounds(answer, 2, 1.0)


@pytest.mark.parametrize("rows", [[], [[], []]])
def test_no_time_of_the_reference_is_refused(rows: list[list[float]]) -> None:
    with pytest.raises(DeviceError, match="no time of the reference"):
        read_rounds(changed(reference_us=rows), 2, 1.0)


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
