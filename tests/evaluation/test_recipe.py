"""What a recipe does not say follows from the number of images; what makes no sense is refused."""

from typing import Any

import pytest

from edgenas.errors import InputError
from edgenas.evaluation.recipe import Fidelity, Recipe


@pytest.mark.parametrize(
    ("images", "batch", "rate", "grade"),
    [
        (100, 64, 0.012, "light"), (4_999, 64, 0.012, "light"), (5_000, 64, 0.008, "light"),
        (19_999, 64, 0.008, "light"), (20_000, 128, 0.004, "none"), (1_000_000, 128, 0.004, "none"),
    ],
)  # fmt: skip
def test_the_number_of_images_says_what_the_recipe_does_not(images: int, batch: int, rate: float, grade: str) -> None:
    plain = Recipe()
    assert (plain.batch_of(images), plain.rate_of(images), plain.grade_of(images)) == (batch, rate, grade)
    said = Recipe(batch_size=50, learning_rate=0.1, augment="strong")
    assert (said.batch_of(images), said.rate_of(images), said.grade_of(images)) == (50, 0.1, "strong")
    assert Recipe(augment="none").grade_of(images) == "none"


def test_a_batch_has_no_more_images_than_there_are() -> None:
    assert [Recipe(batch_size=size).batch_of(20) for size in (None, 64, 20, 16)] == [20, 20, 20, 16]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 1}, "batch_size >= 2"), ({"batch_size": 0}, "batch_size >= 2"),
        ({"learning_rate": 0.0}, "learning_rate > 0"), ({"learning_rate": -0.1}, "learning_rate > 0"),
        ({"learning_rate": float("nan")}, "learning_rate > 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing in \[0, 1\)"),
        ({"label_smoothing": -0.1}, r"label_smoothing in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay and mixup >= 0"), ({"mixup": -0.1}, "weight_decay and mixup >= 0"),
        ({"mixup": float("nan")}, "weight_decay and mixup >= 0"),
    ],
    ids=str,
)  # fmt: skip
def test_a_recipe_that_cannot_be_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"Expected .*{words}.* Received: Recipe"):
        Recipe(**wrong)
    Recipe(batch_size=2, learning_rate=1e-9, label_smoothing=0.0, weight_decay=0.0, mixup=0.0)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"share": 0.0}, {"share": 1.1}, {"scale": 0.0}, {"scale": 1.5}], ids=str
)
def test_a_fidelity_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"Expected steps >= 1, share and scale in \(0, 1\]\. Received: Fidelity"):
        Fidelity(**wrong)
    Fidelity(steps=1, share=0.01, scale=1.0)
