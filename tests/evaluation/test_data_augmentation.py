"""Varied images: each grade does what it says and no more, drawn from the seed and the step alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from edgenas.evaluation.data import Augment

SIDE = 24
Images = np.ndarray[Any, np.dtype[np.float32]]


def vary(augment: Augment, images: Images, seed: tuple[int, int] = (3, 7), labels: Images | None = None) -> Any:
    """(varied images, labels)."""
    if labels is None:
        labels = np.eye(2, dtype=np.float32)[np.arange(len(images)) % 2]
    varied = augment()(tf.constant(images), tf.constant(labels), tf.constant(seed, tf.int32))
    return tuple(each.numpy() for each in varied)


def noise(count: int, channels: int = 1) -> Images:
    shape = count, SIDE, SIDE + 4, channels
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def plain(count: int, value: float = 190.0) -> Images:
    return np.full((count, SIDE, SIDE, 1), value, np.float32)


def striped(count: int) -> Images:
    """All rows of an image are alike."""
    columns = 100 + 60 * np.sin(np.arange(SIDE) / 2)
    return np.tile(columns.astype(np.float32)[:, None], (count, SIDE, 1, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [Augment("light"), Augment("strong"), Augment("strong", flip=True, mixup=0.3)])
def test_every_image_is_another_one_of_the_same_kind(augment: Augment, channels: int) -> None:
    images = noise(8, channels)
    varied, labels = vary(augment, images)
    assert (varied.shape, varied.dtype) == (images.shape, np.float32)
    assert np.isfinite(varied).all() and varied.min() >= 0 and varied.max() <= 255
    assert (np.abs(varied - images).max(axis=(1, 2, 3)) > 1).all()
    assert varied.std() > 20, "there is something left to see"
    assert labels.shape == (8, 2)


def test_without_a_grade_nothing_changes() -> None:
    images = noise(4)
    varied, labels = vary(Augment(), images)
    assert (varied == images).all() and (labels == np.eye(2)[[0, 1, 0, 1]]).all()


@pytest.mark.parametrize("augment", [Augment("light"), Augment("strong"), Augment(flip=True), Augment(mixup=0.5)])
def test_the_seed_the_step_and_the_place_in_the_batch_say_what_is_drawn(augment: Augment) -> None:
    images = np.repeat(noise(1), 6, axis=0)
    images[3:] = 255 - images[3:]  # who is blended with itself is not changed
    first = vary(augment, images)[0]
    assert (vary(augment, images)[0] == first).all()
    for other in ((3, 8), (4, 7)):
        assert not (vary(augment, images, other)[0] == first).all()
    assert len({image.tobytes() for image in first[:3]}) > 1


def shares(count: int, of: Callable[[int], Images], augment: Augment, holds: Callable[[Images], bool]) -> float:
    """Of how many varied images something holds."""
    return float(np.mean([holds(image) for image in vary(augment, of(count))[0][..., 0]]))


def is_upright(image: Images) -> bool:
    return bool(np.abs(image - image[:1]).max() < 0.5)


def test_light_does_not_turn_and_strong_does() -> None:
    assert shares(60, striped, Augment("light"), is_upright) == 1
    assert shares(60, striped, Augment("strong"), is_upright) < 0.2


def is_whole(image: Images) -> bool:
    return bool(image.min() > 0)


def test_light_cuts_nothing_out_and_strong_does_so_in_every_second_image() -> None:
    assert shares(200, plain, Augment("light"), is_whole) == 1
    assert 0.4 < shares(200, plain, Augment("strong"), is_whole) < 0.6
    gone = np.array([(image == 0).mean() for image in vary(Augment("strong"), plain(200))[0]])
    assert gone[gone > 0].min() > 0.01 and 0.1 < gone.max() < 0.17, "a part that is seen, and no more"


@pytest.mark.parametrize(("grade", "reach"), [("light", 0.1), ("strong", 0.2)])
def test_brightness_moves_by_a_share_of_the_range(grade: Any, reach: float) -> None:
    changes = (vary(Augment(grade), plain(200, 128))[0].max(axis=(1, 2, 3)) - 128) / 255
    assert changes.min() == pytest.approx(-reach, rel=0.1) and changes.max() == pytest.approx(reach, rel=0.1)


@pytest.mark.parametrize(("grade", "contrast", "zoom"), [("light", 0.1, 0.1), ("strong", 0.3, 0.25)])
def test_contrast_and_size_change_by_a_share(grade: Any, contrast: float, zoom: float) -> None:
    """Of a square that stays in the image whole: how far it stands out, and how wide it is."""
    square = plain(200, 90)
    square[:, 8:16, 8:16] = 150
    varied = vary(Augment(grade), square)[0][..., 0]
    whole = varied[varied.min(axis=(1, 2)) > 0]
    low, high = whole.min(axis=(1, 2)), whole.max(axis=(1, 2))
    change = (high - low) / 60 - 1
    assert change.min() == pytest.approx(-contrast, rel=0.1) and change.max() == pytest.approx(contrast, rel=0.1)
    area = ((whole - low[:, None, None]) / (high - low)[:, None, None]).sum(axis=(1, 2))
    inverse = 8 / np.sqrt(area) - 1
    assert inverse.min() == pytest.approx(-zoom, rel=0.15) and inverse.max() == pytest.approx(zoom, rel=0.15)


@pytest.mark.parametrize(("grade", "mean", "most"), [("light", 0.04, 0.15), ("strong", 0.06, 0.25)])
def test_an_object_is_moved_by_a_share_of_the_side(grade: Any, mean: float, most: float) -> None:
    """Its middle, by half of the farthest on average; zooming and turning move that a little too."""
    spot = plain(200, 10)
    spot[:, 10:14, 10:14] = 200
    varied = vary(Augment(grade), spot)[0][..., 0]
    bright = (varied > varied.mean(axis=(1, 2), keepdims=True) + 50).astype(float)
    seen = bright.sum(axis=(1, 2))
    places = [(bright * along).sum(axis=(1, 2))[seen > 8] / seen[seen > 8]
              for along in (np.arange(SIDE)[:, None], np.arange(SIDE))]  # fmt: skip
    assert abs(np.corrcoef(*places)[0, 1]) < 0.2, "down and across are drawn each for itself"
    for moved in (np.abs(place - (SIDE - 1) / 2) / SIDE for place in places):  # down, and across
        assert moved.mean() == pytest.approx(mean, rel=0.2) and 2 * mean < moved.max() < most


def test_flip_mirrors_every_second_image_and_invents_nothing() -> None:
    images = noise(100)
    varied = vary(Augment(flip=True), images)[0]
    mirrored = (varied == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored ^ (varied == images).all(axis=(1, 2, 3))).all()
    assert 35 < mirrored.sum() < 65


@pytest.mark.parametrize("mixup", [0.01, 0.2, 5.0])
def test_mixup_blends_labels_as_it_blends_images(mixup: float) -> None:
    """Black images of class 0 and white ones of class 1: how bright one is says what its label is."""
    classes = np.repeat([0, 1], 200)
    images = np.ones((400, 4, 4, 1), np.float32) * 255 * classes[:, None, None, None]
    varied, labels = vary(Augment(mixup=mixup), images.astype(np.float32), labels=np.eye(2, dtype=np.float32)[classes])
    assert np.isfinite(varied).all()
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(varied, np.broadcast_to(255 * labels[:, 1, None, None, None], varied.shape), atol=1e-3)
    own = labels[np.arange(400), classes]
    assert own.mean() == pytest.approx(0.5, abs=0.06)
    assert own.var() == pytest.approx(1 / (4 * (2 * mixup + 1)), rel=0.2), "the variance of Beta(mixup, mixup)"
