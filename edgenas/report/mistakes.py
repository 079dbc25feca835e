"""What a trained network gets wrong on the test images: by class, as a confusion matrix, and as pictures."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

import edgenas.files as files
from edgenas.deploy.answers import Answers
from edgenas.evaluation.data import Dataset, wilson_interval
from edgenas.report.pictures import save_figure
from edgenas.report.samples import save, shortened, thumbnail

WORST = 40  # mistakes in the gallery
_COLUMNS, _SIDE, _GAP, _WORDS = 8, 96, 6, 34
_MOST_NUMBERED = 25  # classes: more, and the numbers of a matrix are left out


@dataclass(frozen=True)
class ClassResult:
    """How well one class is told from the others.

    Attributes:
        label: its name.
        images, right: of the test split.
        interval: Wilson's of the accuracy, coverage 95%.
        taken_for: the class that most of its mistakes name; "" without mistakes.
    """

    label: str
    images: int
    right: int
    interval: tuple[float, float]
    taken_for: str


def mistakes_folder(study: Path, bundle: str) -> Path:
    """Where the pictures of a bundle's mistakes lie in a study's folder."""
    return study / "mistakes" / bundle


def confusion(dataset: Dataset, found: Answers) -> npt.NDArray[np.int64]:
    """[classes, classes] test images by true class and by the class that was named."""
    counts = np.zeros((dataset.classes, dataset.classes), np.int64)
    np.add.at(counts, (dataset.y[found.images], found.outputs.argmax(axis=1)), 1)
    return counts


def by_class(dataset: Dataset, found: Answers) -> list[ClassResult]:
    """The result of each class that has test images, the worst first."""
    counts = confusion(dataset, found)
    results = []
    for label, row in enumerate(counts):
        images, right = int(row.sum()), int(row[label])
        if images:
            wrong = row.copy()
            wrong[label] = 0
            taken = dataset.labels[int(wrong.argmax())] if wrong.any() else ""
            results.append(ClassResult(dataset.labels[label], images, right, wilson_interval(right, images), taken))
    return sorted(results, key=lambda result: result.right / result.images)


def write_mistakes(dataset: Dataset, found: Answers, folder: Path) -> list[Path]:
    """Write confusion.csv, confusion.png, classes.csv and mistakes.png into a folder; their paths."""
    counts = confusion(dataset, found)
    paths = [folder / name for name in ("confusion.csv", "confusion.png", "classes.csv", "mistakes.png")]
    table = [[label, *row] for label, row in zip(dataset.labels, counts, strict=True)]
    _write_csv(paths[0], [["true class", *dataset.labels], *table])
    _draw_confusion(dataset.labels, counts, paths[1])
    rows = [
        [one.label, one.images, one.right, f"{one.right / one.images:.4f}", *(f"{end:.4f}" for end in one.interval),
         one.taken_for]
        for one in by_class(dataset, found)
    ]  # fmt: skip
    _write_csv(paths[2], [["class", "images", "right", "accuracy", "low", "high", "taken for"], *rows])
    draw_gallery(dataset, found, paths[3])
    return paths


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    files.write_atomically(path, text.getvalue())


def _draw_confusion(labels: tuple[str, ...], counts: npt.NDArray[np.int64], path: Path) -> None:
    from matplotlib.figure import Figure

    side = 2.2 + 0.38 * min(len(labels), _MOST_NUMBERED)
    figure = Figure(figsize=(side, side), dpi=130, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [shortened(label) for label in labels]
    if len(labels) <= _MOST_NUMBERED:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        for row, column in zip(*counts.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("named by the network")
    axes.set_ylabel("true class")
    save_figure(figure, path)


def draw_gallery(dataset: Dataset, found: Answers, path: Path) -> None:
    """Draw the mistakes that the network was surest of, the worst first; one line says so where there are none."""
    true, named = dataset.y[found.images], found.outputs.argmax(axis=1)
    raw = found.outputs.astype(float)
    margin = raw.max(axis=1) - raw[np.arange(len(raw)), true]
    wrong = np.flatnonzero(named != true)
    worst = wrong[np.argsort(-margin[wrong], kind="stable")][:WORST]
    step, rows = _SIDE + _GAP, max(1, -(-len(worst) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * step + _GAP, rows * (step + _WORDS) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    if not len(worst):
        draw.text((_GAP, _GAP), f"no mistake on {len(true)} test images", "black", font)
    for place, index in enumerate(worst):
        left, top = _GAP + place % _COLUMNS * step, _GAP + place // _COLUMNS * (step + _WORDS)
        sheet.paste(thumbnail(np.asarray(dataset.x[found.images[index]]), _SIDE), (left, top))
        draw.text((left, top + _SIDE + 2), shortened(dataset.labels[true[index]]), "#1c6e3c", font)
        draw.text((left, top + _SIDE + 16), f"not {shortened(dataset.labels[named[index]])}", "#c0392b", font)
    save(sheet, path)
