"""What a device answers is checked before it is believed."""

import copy
import math
from typing import Any

import numpy as np
import pytest

from edgenas.errors import DeviceError
from edgenas.latency.profiling.rounds import half_width, read_pass

VISITS = 16


def model(us: float, **changes: Any) -> dict[str, Any]:
    """Visits while the machine's speed wanders by 30%."""
    drift = [1 + 0.3 * (number % 4) / 3 for number in range(VISITS)]
    visits = {"visits_us": [us * d for d in drift], "around_us": [10.0 * d for d in drift]}
    return (
        visits
        | {
            "cold_us": [3 * us * d for d in drift],
            "first_us": 9 * us,
            "load_us": 100.0,
            "repeats": 1,
            "resident_kb": 90,
        }
        | changes
    )


GOOD: dict[str, Any] = {
    "models": [model(10.0), model(40.0)],
    "reference_us": [10.0, 10.0, 13.0],
    "failed": {},
    "visits": 40,
    "interrupted": 2,
    "drifted": 6,
}


def changed(**parts: Any) -> dict[str, Any]:
    return copy.deepcopy(GOOD) | parts


def test_a_drift_that_all_share_is_divided_out() -> None:
    rounds = read_pass(GOOD, 2, 1.5)
    assert rounds.ratios == pytest.approx((1.0, 4.0))
    assert rounds.colds == pytest.approx((3.0, 12.0))
    assert [len(visits) for visits in rounds.visits_us] == [VISITS, VISITS]
    assert rounds.reference_us == 10.0
    assert (rounds.visits, rounds.interrupted, rounds.drifted) == (40, 2, 6)
    assert (rounds.failed, rounds.busy_s) == ({}, 1.5)


def test_the_interval_of_a_mean_of_passes() -> None:
    noise = np.random.default_rng(0).normal(10.0, 0.1, (2000, 4))
    held = [abs(row.mean() / 10.0 - 1) <= half_width(list(row)) for row in noise]
    # 4 passes know their own spread badly: the normal interval holds 86%.
    assert 0.82 < np.mean(held) < 0.90
    assert half_width([1.0]) == np.inf


def test_a_model_with_few_undisturbed_visits_has_no_ratio() -> None:
    few = model(10.0, visits_us=[10.0] * 3, cold_us=[10.0] * 3, around_us=[10.0] * 3)
    rounds = read_pass(changed(models=[few, model(40.0)]), 2, 1.0)
    assert rounds.ratios[0] is None
    assert rounds.ratios[1] is not None


def test_a_model_that_failed_is_none_and_named() -> None:
    answer = changed(models=[None, model(40.0)], failed={"0": "its process died (signal 11)"})
    rounds = read_pass(answer, 2, 1.0)
    assert rounds.ratios[0] is None
    assert rounds.ratios[1] == pytest.approx(4.0)
    assert rounds.failed == {0: "its process died (signal 11)"}


@pytest.mark.parametrize("name", ["visits_us", "around_us", "cold_us", "reference_us"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_time_that_no_clock_gives_is_refused(name: str, value: float) -> None:
    answer = changed()
    (answer if name in answer else answer["models"][0])[name][1] = value
    with pytest.raises(DeviceError, match="not positive and finite"):
        read_pass(answer, 2, 1.0)


@pytest.mark.parametrize(
    "parts",
    [
        {"models": []},
        {"models": [model(10.0)]},
        {"models": None},
        {"models": 3},
        {"models": [None, model(1.0)]},
        {"models": [model(10.0), model(1.0, visits_us=None)]},
        {"models": [model(10.0), model(1.0, visits_us=[[1.0]] * VISITS)]},
        {"models": [model(10.0), model(1.0, visits_us=["fast"] * VISITS)]},
        {"models": [model(10.0), model(1.0, around_us=[1.0])]},
        {"models": [model(10.0), model(1.0, around_us=[None] * VISITS)]},
        {"models": [model(10.0), model(1.0, cold_us="x")]},
        {"models": [model(10.0), 7]},
        {"models": [model(10.0), model(1.0, resident_kb=-1)]},
        {"models": [model(10.0), model(1.0, resident_kb=math.nan)]},
        {"models": [model(10.0), model(1.0, resident_kb="much")]},
        {"reference_us": None},
        {"reference_us": ["x"]},
        {"failed": {"first": "died"}},
        {"failed": {"7": "died"}},
        {"failed": []},
        {"failed": None},
        {"visits": "many"},
    ],
)
def test_an_answer_of_another_shape_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(DeviceError):
        read_pass(changed(**parts), 2, 1.0)


@pytest.mark.parametrize("name", list(GOOD))
def test_a_missing_part_is_refused(name: str) -> None:
    answer = changed()
    del answer[name]
    with pytest.raises(DeviceError, match="makes no sense"):
        read_pass(answer, 2, 1.0)


def test_no_time_of_the_reference_is_refused() -> None:
    with pytest.raises(DeviceError, match="no time of the reference"):
        read_pass(changed(reference_us=[]), 2, 1.0)
