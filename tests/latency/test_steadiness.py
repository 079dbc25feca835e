"""How steady a device was: the grades, what is said of them, and how much wider an interval becomes."""

import pytest

from edgenas.latency.steadiness import STEADY, Steadiness, slowed, widened


def test_a_device_is_steady_until_it_is_said_not_to_be() -> None:
    assert (STEADY.grade, STEADY.disturbed) == ("steady", False)
    assert Steadiness(True).grade == "disturbed"


def test_it_says_by_what_and_with_what() -> None:
    said = (
        "disturbed: 12% of the visits lost their core to another process, 40% had a reference model beside them that "
        "had moved"
    )
    assert str(Steadiness(True, 0.12, 0.4)) == said
    assert str(Steadiness(True, 0.12, 0.4, "Now: load 4.")) == f"{said}. Now: load 4."
    assert str(STEADY).startswith("steady: 0% of the visits")


def test_an_interval_is_wider_by_a_share_on_either_side() -> None:
    assert widened(1.0, 2.0, 0.25) == (0.8, 2.5)
    assert widened(1.0, 2.0, 0.0) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("references", "share"), [([10.0], 0.0), ([14.0, 12.0, 10.0, 30.0, 11.0], 0.4), ([90.0, 10.0, 10.0, 10.0, 10.0], 0)]
)
def test_how_much_slower_the_reference_was_than_at_its_fastest(references: list[float], share: float) -> None:
    assert slowed(references) == pytest.approx(share)
