import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.strategy import Front, Point


def point(number: int, accuracy: float, latency_ms: float, memory_kb: float = 100) -> Point:
    name = f"{number:012x}"
    return Point(name, "none", accuracy, latency_ms, (latency_ms * 0.9, latency_ms * 1.1), 1, 1, memory_kb, number)


POINTS = [point(1, 0.80, 1), point(2, 0.90, 2), point(3, 0.91, 9), point(4, 0.85, 3), point(5, 0.85, 3, 50)]


def test_dominated_points_are_left_out():
    assert [p.trial for p in Front(POINTS)] == [1, 2, 5, 3]


def test_picks():
    front = Front(POINTS)
    assert front.pick("best").trial == 3
    assert front.pick("knee").trial == 2
    assert front.pick("000000000005").trial == 5
    with pytest.raises(InputError, match="no point 'nonsense'"):
        front.pick("nonsense")
    with pytest.raises(InputError, match="front is empty"):
        Front([]).pick("best")


def test_one_point_is_best_and_knee():
    front = Front(POINTS[:1])
    assert front.pick("best") == front.pick("knee") == POINTS[0]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 9), st.floats(1, 9)), min_size=1, max_size=30))
def test_every_point_is_on_the_front_or_beaten(rows):
    points = [point(number, *row) for number, row in enumerate(rows)]
    front = Front(points)
    for one in points:
        beaten = [
            other
            for other in front
            if all(a <= b for a, b in zip(other.losses, one.losses, strict=True)) and other.losses != one.losses
        ]
        assert (one in front.points) == (not beaten)
