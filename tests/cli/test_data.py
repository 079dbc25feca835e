"""`edgenas data check`: each kind of bad folder is named, with what to do."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgenas.evaluation.pace as pacing
from edgenas.evaluation.data import Dataset, Splits
from edgenas.evaluation.pace import Pace
from edgenas.evaluation.recipe import Recipe
from tests.terminal import Terminal

Build = Callable[[Path], None]
RNG = np.random.default_rng(0)
CHECK = ("data", "check", "images", "--input", "16x16x3", "--no-pace")
PICTURE = RNG.integers(0, 256, (20, 20, 3), np.uint8)


def put(path: Path, pixels: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(0, 256, (20, 20, 3), np.uint8) if pixels is None else pixels
    Image.fromarray(image).save(path)


def fill(root: Path, *classes: str, count: int = 21, pixels: np.ndarray | None = None) -> None:
    for label in classes:
        for number in range(count):
            put(root / label / f"{number}.png", pixels)


def copied(root: Path) -> None:
    fill(root, "a", "b")
    for number in range(4):
        shutil.copy(root / "a" / f"{number}.png", root / "b" / f"again{number}.png")


def broken(root: Path) -> None:
    fill(root, "a", "b")
    for number in range(5):
        (root / "a" / f"no{number}.png").write_bytes(b"no image")


def empty(root: Path) -> None:
    fill(root, "a", "b")
    (root / "c").mkdir()


def one_picture(root: Path) -> None:
    fill(root, "a")
    fill(root, "b", pixels=RNG.integers(0, 256, (20, 20, 3), np.uint8))


def dark(root: Path) -> None:
    fill(root, "a")
    for number in range(21):
        put(root / "b" / f"{number}.png", RNG.integers(0, 6, (20, 20, 3), np.uint8))


def bomb(root: Path) -> None:
    fill(root, "a", "b")
    (root / "a" / "bomb.ppm").write_bytes(b"P5 7900 7900 255\n")


def uneven(root: Path) -> None:
    fill(root, "a", count=80)
    fill(root, "b", count=8)


BAD: dict[str, tuple[Build, str]] = {
    "splits": (lambda root: fill(root, "training_set", "test_set"), "expected one sub-folder a class in "),
    "splits and more": (lambda root: fill(root, "seg_train/a", "seg_test/a", "seg_pred"), "received also 'seg_pred'"),
    "empty": (empty, "the class 'c' has 0 images"),
    "one picture": (one_picture, "all images of b are one and the same picture"),
    "dark": (dark, "21 images are nearly black: b (21)"),
    "copies": (copied, "4 pictures are in several classes, such as a, b"),
    "all the same": (lambda root: fill(root, "a", "b", pixels=PICTURE), "the same picture"),
    "few": (lambda root: fill(root, "a", "b", count=3), "the class 'a' has 3 images"),
    "two ways to write it": (lambda root: fill(root, "Tea", "tea"), "'Tea' and 'tea' differ in capitals"),
    "a bomb": (bomb, "claims 7900 x 7900 pixels: a decompression bomb"),
    "broken": (broken, "more than 1% of 47 files are no readable images"),
    "one class": (lambda root: fill(root, "a"), "expected at least two classes"),
    "a folder too deep": (lambda root: fill(root / "images", "a", "b"), "Did you mean"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_makes_data_useless_is_named(kind: str, tmp_path: Path) -> None:
    build, words = BAD[kind]
    build(tmp_path / "images")
    done = Terminal(tmp_path).types(*CHECK, "--json")
    assert done.returncode == 4
    found = json.loads(done.stdout)["findings"]
    problems = [finding for finding in found if finding["level"] == "problem"]
    assert any(words in finding["what"] for finding in problems), found
    assert all(finding["remedy"] for finding in found)
    assert words in done.stderr and done.stderr.count("edgenas: ") == 1
    assert ".." not in done.stderr.splitlines()[-1]


def test_what_may_be_meant_is_a_warning(tmp_path: Path) -> None:
    uneven(tmp_path / "images")
    done = Terminal(tmp_path).types(*CHECK)
    assert done.returncode == 0, done.stderr
    assert "warning: a has 80 images, b has 8. Search with --metric balanced_accuracy --balance-classes." in done.stdout
    assert "warning: b (8): fewer than 20 images" in done.stdout


def test_how_data_were_read_is_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "images"
    fill(
        root, *(f"{part}/{label}" for part in ("training_set", "test_set") for label in ("caf\u00e9", "tea", "@eaDir"))
    )
    fill(root, "training_set/cafe\u0301", count=2)
    Image.fromarray(RNG.integers(0, 4096, (20, 20), np.uint16)).save(root / "test_set" / "tea" / "deep.png")
    said = Terminal(tmp_path).gets(*CHECK)
    assert said["classes"] == {"caf\u00e9": 44, "tea": 43}
    assert all(finding["level"] == "warning" for finding in said["findings"])
    found = " ".join(finding["what"] for finding in said["findings"])
    for words in (
        "Read as splits: test_set as test, training_set as train",
        "left out: @eaDir",
        "are one class: caf\u00e9",
        "such as test_set/tea/deep.png: 1",
    ):
        assert words in found


def test_good_data_are_counted_and_drawn(tmp_path: Path) -> None:
    fill(tmp_path / "images", "bolt", "nut", count=30)
    done = Terminal(tmp_path).types(*CHECK, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["classes"] == {"bolt": 30, "nut": 30}
    assert sum(said["splits"].values()) == 60
    assert said["findings"] == [] and said["trial"] is None
    with Image.open(tmp_path / said["sheet"]) as sheet:
        drawn = np.asarray(sheet.convert("RGB"))
    assert drawn.shape[0] > 2 * 72 and len(np.unique(drawn)) > 100, "two rows of pictures"


def test_folds_are_said_where_they_stand_in_for_validation(tmp_path: Path) -> None:
    fill(tmp_path / "images", "bolt", "nut", count=30)
    (line,) = [line for line in Terminal(tmp_path).types(*CHECK).stdout.splitlines() if line.startswith("splits")]
    assert re.fullmatch(
        r"splits +train \d+, acceptance \d+, test \d+; 3 folds of train stand in for validation", line
    ), "what has no images is left out"
    digits = Terminal(tmp_path).types("data", "check", "digits", "--input", "8x8x1", "--no-pace").stdout
    assert "validation 180, selection 108, acceptance 90, test 270\n" in digits and "fold" not in digits


def test_it_says_how_long_a_trial_takes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def timed(dataset: Dataset, splits: Splits, recipe: Recipe) -> Pace:
        asked.append((len(dataset), len(splits.folds), recipe))
        return Pace(batch_size=32, folds=3, start_s=6.0, step_s=0.1)

    monkeypatch.setattr(pacing, "pace", timed)
    fill(tmp_path / "images", "bolt", "nut", count=30)
    user = Terminal(tmp_path)
    said = user.gets(*CHECK[:-1])["trial"]
    assert said == {"batch_size": 32, "folds": 3, "steps": [256, 1024], "seconds": [82.8, 313.2]}
    words = "256 to 1024 steps of 32 images in each of 3 folds: 83 s to 5 min for a large network on this machine"
    assert words in user.types(*CHECK[:-1]).stdout
    assert asked == [(60, 3, Recipe())] * 2
    assert "a trial" not in user.types(*CHECK).stdout and len(asked) == 2
