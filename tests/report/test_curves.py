"""How a network was trained, written as files."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.evaluation.curve import Curve
from edgenas.evaluation.stopping import Course
from edgenas.report.curves import _COLOURS, curves_folder, write_curves

COURSE = Course(
    curves=tuple(
        Curve(name, (100, 200, 300), (2.0, 1.5, 1.25), (0.2, 0.4, 0.5), (0.1 * number, 0.45, 1 / 3))
        for number, name in enumerate(("fold 1, light", "fold 1, strong", "fold 2, light", "fold 3, light"))
    ),
    last=Curve("last training", (100, 150), (1.75, 0.5), (0.3, 0.9)),
    advice="More training may help.",
)
LAST = "#33424d"


def rows_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def colours_of(path: Path) -> set[str]:
    """Of the picture's pixels, in hexadecimal digits."""
    with Image.open(path) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    return {"#" + bytes(pixel).hex() for pixel in np.unique(pixels, axis=0)}


def test_they_lie_in_the_study_by_the_bundle_s_name(tmp_path: Path) -> None:
    folder = curves_folder(tmp_path, "b1-float32")
    assert folder == tmp_path / "training" / "b1-float32"
    assert write_curves(COURSE, folder) == [folder / name for name in ("curves.csv", "curves.png", "advice.txt")]
    assert sorted(path.name for path in folder.iterdir()) == ["advice.txt", "curves.csv", "curves.png"]


def test_a_row_a_round(tmp_path: Path) -> None:
    rows = rows_of(write_curves(COURSE, tmp_path)[0])
    assert rows[0] == ["training", "steps", "loss", "accuracy", "held-out accuracy"]
    assert len(rows) == 1 + 4 * 3 + 2 and {len(row) for row in rows} == {5}
    assert rows[4:7] == [
        ["fold 1, strong", "100", "2.00000", "0.20000", "0.10000"],
        ["fold 1, strong", "200", "1.50000", "0.40000", "0.45000"],
        ["fold 1, strong", "300", "1.25000", "0.50000", "0.33333"],
    ]
    assert float(rows[1][4]) == 0.0, "none of the images held out was right, which is not the same as nothing"
    assert rows[-2:] == [
        ["last training", "100", "1.75000", "0.30000", ""],
        ["last training", "150", "0.50000", "0.90000", ""],
    ]


def test_every_curve_is_drawn(tmp_path: Path) -> None:
    path = write_curves(COURSE, tmp_path)[1]
    with Image.open(path) as drawn:
        assert drawn.format == "PNG" and min(drawn.size) > 500
    assert {*_COLOURS, LAST} <= colours_of(path)


def test_of_a_training_whose_length_was_given_its_own_curve_is_all(tmp_path: Path) -> None:
    csv_path, picture, advice = write_curves(dataclasses.replace(COURSE, curves=(), advice=""), tmp_path)
    assert [row[0] for row in rows_of(csv_path)] == ["training", "last training", "last training"]
    drawn = colours_of(picture)
    assert LAST in drawn and not drawn & set(_COLOURS)
    assert advice.read_text().strip() == ""


@pytest.mark.parametrize("words", ["More training may help.", "“Größer”: é漢"])
def test_advice_is_a_line(tmp_path: Path, words: str) -> None:
    path = write_curves(dataclasses.replace(COURSE, advice=words), tmp_path)[2]
    assert path.read_text(encoding="utf-8") == f"{words}\n"
