"""How a network was trained: its curves as a file and as a picture."""

import csv
import io
from pathlib import Path

import edgenas.files as files
from edgenas.evaluation.stopping import Course
from edgenas.report.pictures import save_figure

_COLOURS = ("#0b6e99", "#e0923c", "#5c8f4e", "#8a5ea8")


def curves_folder(study: Path, bundle: str) -> Path:
    """Where the curves of a bundle lie in a study's folder."""
    return study / "training" / bundle


def write_curves(course: Course, folder: Path) -> list[Path]:
    """Write curves.csv, curves.png and advice.txt into a folder; their paths."""
    paths = [folder / name for name in ("curves.csv", "curves.png", "advice.txt")]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("training", "steps", "loss", "accuracy", "held-out accuracy"))
    for curve in (*course.curves, course.last):
        held_out = curve.held_out or ("",) * len(curve.steps)
        for steps, loss, accuracy, held in zip(curve.steps, curve.loss, curve.accuracy, held_out, strict=True):
            rows.writerow((curve.name, steps, f"{loss:.5f}", f"{accuracy:.5f}", held and f"{held:.5f}"))
    files.write_atomically(paths[0], text.getvalue())
    _draw(course, paths[1])
    files.write_atomically(paths[2], f"{course.advice}\n")
    return paths


def _draw(course: Course, path: Path) -> None:
    """Accuracy against steps: of the last training, and of those that looked for when to stop."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    for colour, curve in zip(_COLOURS, course.curves, strict=False):
        axes.plot(curve.steps, [100 * share for share in curve.held_out], color=colour, linewidth=1.2,
                  label=f"{curve.name}: images held out")  # fmt: skip
        axes.plot(curve.steps, [100 * share for share in curve.accuracy], color=colour, linewidth=0.8, linestyle=":",
                  label=f"{curve.name}: training images, varied")  # fmt: skip
    axes.plot(course.last.steps, [100 * share for share in course.last.accuracy], color="#33424d", linewidth=1.6,
              label="last training: training images, varied")  # fmt: skip
    axes.set_xlabel("steps")
    axes.set_ylabel("accuracy (%)")
    axes.grid(color="#e4eaee", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    save_figure(figure, path)
