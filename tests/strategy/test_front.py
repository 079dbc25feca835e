import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.strategy import Front
from tests.strategy.conftest import measured, point

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


MOST = measured(0, range(4), 9)


@pytest.mark.parametrize(("wrong", "tied"), [(range(6), False), (range(2, 8), True)], ids=["same", "other"])
def test_points_are_tied_where_the_images_cannot_tell_them_apart(wrong: range, tied: bool):
    """Both have two more wrong: 1.4 standard errors where they are wrong on the same images, else 0.8."""
    other = measured(1, wrong, 2)
    assert other.accuracy == 0.94
    front = Front([MOST, other])
    assert front.tied == ((other, MOST) if tied else (MOST,))
    assert front.pick("best") is (other if tied else MOST)


def test_the_fastest_of_those_that_are_tied_is_best():
    close, closer, far = measured(1, range(2, 8), 3), measured(2, range(3, 8), 4), measured(3, range(50), 1)
    front = Front([MOST, close, closer, far])
    assert front.tied == (close, closer, MOST)
    assert front.pick("best") is close
    assert front.pick("knee") is close, "no slower than the best"


def test_of_the_tied_that_are_as_fast_the_most_accurate_is_best():
    close = measured(1, range(2, 8), 9, memory_kb=50)
    front = Front([close, MOST])
    assert front.tied == (close, MOST)
    assert front.pick("best") is MOST


CLOSE = measured(1, range(3, 8), 2)


@pytest.mark.parametrize("changes", [{"right": ""}, {"right": CLOSE.right[:2], "images": 8}], ids=["none", "others"])
def test_only_as_accurate_ones_are_tied_where_nobody_said_what_they_named_rightly(changes: dict[str, object]):
    assert Front([MOST, CLOSE]).tied == (CLOSE, MOST)
    assert Front([MOST, dataclasses.replace(CLOSE, **changes)]).tied == (MOST,)
    bare = dataclasses.replace(MOST, **changes)
    assert Front([bare, CLOSE]).tied == (bare,)
    slower = dataclasses.replace(bare, latency_ms=10, peak_memory_kb=50)
    assert Front([bare, slower]).tied == (bare, slower)
    assert Front([bare, slower]).pick("best") is bare


def test_a_point_is_printed_without_its_images():
    assert MOST.right not in repr(MOST) and "images=100" in repr(MOST)
