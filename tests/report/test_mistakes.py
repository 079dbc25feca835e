"""What a network gets wrong: counted by class, drawn, and written as files."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.deploy.answers import Answers, answers_path
from edgenas.errors import InputError
from edgenas.evaluation.data import Dataset, load_dataset
from edgenas.report.mistakes import by_class, confusion, write_mistakes


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 12, 12), np.uint8), np.repeat([0, 1, 2], 20)
    np.savez(tmp_path / "d.npz", x=x, y=y, labels=["bolt", "nut", "a class with a very long name"])
    return load_dataset(tmp_path / "d.npz", (12, 12, 1), cache=tmp_path / "cache")


@pytest.fixture
def answers(dataset: Dataset) -> Answers:
    """Ten images a class: all bolts right, 7 nuts right and 3 taken for bolts, no third right (6 for nuts, 4 bolts)."""
    images = np.concatenate([np.flatnonzero(dataset.y == label)[:10] for label in range(3)])
    named = [0] * 10 + [1] * 7 + [0] * 3 + [1] * 6 + [0] * 4
    outputs = np.full((30, 3), 10, np.uint8)
    outputs[np.arange(30), named] = 100 + np.arange(30)
    return Answers(images, outputs)


def test_they_are_counted(dataset: Dataset, answers: Answers) -> None:
    assert confusion(dataset, answers).tolist() == [[10, 0, 0], [3, 7, 0], [4, 6, 0]]
    worst, nuts, bolts = by_class(dataset, answers)
    assert (worst.label, worst.right, worst.images, worst.taken_for) == ("a class with a very long name", 0, 10, "nut")
    assert (nuts.label, nuts.right, nuts.taken_for) == ("nut", 7, "bolt")
    assert nuts.interval == pytest.approx((0.397, 0.892), abs=1e-3)
    assert (bolts.label, bolts.right, bolts.taken_for) == ("bolt", 10, "")


def test_they_are_written(dataset: Dataset, answers: Answers, tmp_path: Path) -> None:
    paths = write_mistakes(dataset, answers, tmp_path / "m")
    assert [path.name for path in paths] == ["confusion.csv", "confusion.png", "classes.csv", "mistakes.png"]
    rows = list(csv.reader(paths[0].read_text().splitlines()))
    assert rows[0] == ["true class", *dataset.labels] and rows[2] == ["nut", "3", "7", "0"]
    assert list(csv.reader(paths[2].read_text().splitlines()))[1][:4] == [
        "a class with a very long name", "10", "0", "0.0000"
    ]  # fmt: skip
    with Image.open(paths[1]) as drawn:
        assert min(drawn.size) > 300
    with Image.open(paths[3]) as drawn:
        gallery = np.asarray(drawn.convert("RGB")).astype(int)
    # 13 mistakes in rows of eight; the surest is the last image, and it comes first.
    assert gallery.shape[0] < 2 * 150
    pixels = np.asarray(dataset.x[answers.images[29]])[..., 0]
    assert gallery[10, 10, 0] == pixels[0, 0] and gallery[6 + 95, 6 + 95, 0] == pixels[11, 11]


def test_no_mistake_is_said(dataset: Dataset, answers: Answers, tmp_path: Path) -> None:
    right = Answers(answers.images[:10], answers.outputs[:10])
    with Image.open(write_mistakes(dataset, right, tmp_path / "m")[3]) as drawn:
        assert len(np.unique(np.asarray(drawn))) > 2, "a line of text"


def test_answers_are_kept_beside_the_bundle(answers: Answers, tmp_path: Path) -> None:
    path = answers_path(tmp_path / "bundles" / "b1")
    assert path == tmp_path / "bundles" / "b1.answers.npz"
    answers.save(path)
    again = Answers.load(path)
    assert (again.images == answers.images).all() and (again.outputs == answers.outputs).all()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="cannot be read"):
        Answers.load(path)
