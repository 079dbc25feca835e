"""What looks wrong with labelled images, before any device or training is involved."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgenas.errors import InputError
from edgenas.evaluation.data.dataset import Dataset
from edgenas.evaluation.data.folders import Progress
from edgenas.evaluation.data.images import Policy
from edgenas.evaluation.data.sources import DEFAULT_CACHE, load_dataset
from edgenas.evaluation.data.splits import Splits, split

# Below this an image shows nothing that a network could tell from another: of 255, the mean and the spread.
_DARK, _FLAT = 8.0, 2.0
_FEW_IMAGES = 20  # of a class
_UNEVEN = 10  # times as many images in the largest class as in the smallest
_SHOWN = 3  # names in a finding
_ODD = re.compile(r"[@#$~].+|__.+")
_UNNAMED = re.compile(r"^(untitled|new)[ _-]*(folder|directory)?[ _-]*\d*$")


@dataclass(frozen=True)
class Finding:
    """One thing about the data, and what to do.

    Attributes:
        level: "problem": what is trained on these data cannot be trusted; "warning": it may be meant.
        what: in a sentence.
        remedy: what to do.
    """

    level: Literal["problem", "warning"]
    what: str
    remedy: str


@dataclass(frozen=True)
class DataCheck:
    """What a look at the data found.

    Attributes:
        dataset, splits: None where they cannot be used at all; the findings say why.
        findings: problems first.
    """

    dataset: Dataset | None
    splits: Splits | None
    findings: tuple[Finding, ...]

    def counts(self) -> dict[str, int]:
        """Class -> images, the split for the test included."""
        if self.dataset is None:
            return {}
        numbers = np.bincount(self.dataset.y, minlength=self.dataset.classes)
        return dict(zip(self.dataset.labels, map(int, numbers), strict=True))


def check_data(
    data: str | Path,
    input_shape: tuple[int, ...],
    policy: Policy,
    *,
    seed: int = 0,
    cache: Path = DEFAULT_CACHE,
    group_pattern: str | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Read the data as a search would, and look for what is usually wrong with such data.

    Args:
        data, input_shape, policy, cache, group_pattern, progress: see `load_dataset`.
        seed: of the splits.
    """
    findings: list[Finding] = []
    try:
        dataset = load_dataset(data, input_shape, policy, cache=cache, group_pattern=group_pattern, progress=progress)
        splits = split(dataset, seed)
    except InputError as error:
        why = str(error).removeprefix(f"{data}: ").rstrip(".")
        findings.insert(0, Finding("problem", why, "A search would stop with this message."))
        return DataCheck(None, None, tuple(findings))
    findings += [
        *_of_notes(dataset),
        *_of_names(dataset),
        *_of_counts(dataset),
        *_of_pixels(dataset),
        *_of_copies(dataset),
    ]
    findings += [
        Finding("warning", f"{path} is left out: {why}", "Repair or remove it.") for path, why in dataset.left_out
    ]
    return DataCheck(dataset, splits, tuple(sorted(findings, key=lambda finding: finding.level != "problem")))


def _of_notes(dataset: Dataset) -> Iterator[Finding]:
    """What reading them said."""
    for note in dataset.notes:
        if not note.startswith("Files with the same bytes"):  # `_of_copies` finds these and more
            yield Finding("warning", note.rstrip("."), "Nothing is to be done where that is what you mean.")


def _of_names(dataset: Dataset) -> Iterator[Finding]:
    """What the names of the classes say."""
    odd = [label for label in dataset.labels if _ODD.fullmatch(label)]
    if odd:
        yield Finding("warning", f"{_some(odd)} looks like a folder of some program", "Move it out if it is no class.")
    unnamed = [label for label in dataset.labels if _UNNAMED.match(label.lower())]
    if unnamed:
        yield Finding("warning", f"{_some(unnamed)} was never given a name", "Name it after its class.")


def _of_counts(dataset: Dataset) -> Iterator[Finding]:
    counts = np.bincount(dataset.y, minlength=dataset.classes)
    few = [f"{label} ({count})" for label, count in zip(dataset.labels, counts, strict=True) if count < _FEW_IMAGES]
    if few:
        yield Finding(
            "warning", f"{_some(few)}: fewer than {_FEW_IMAGES} images", "Their accuracy is a matter of luck: add some."
        )  # fmt: skip
    if counts.max() >= _UNEVEN * max(1, counts.min()):
        largest, smallest = dataset.labels[int(counts.argmax())], dataset.labels[int(counts.argmin())]
        yield Finding(
            "warning",
            f"{largest} has {counts.max()} images, {smallest} has {counts.min()}",
            "Search with --metric balanced_accuracy --balance-classes.",
        )


def _of_pixels(dataset: Dataset) -> Iterator[Finding]:
    means = np.empty(len(dataset))
    spreads = np.empty(len(dataset))
    for start in range(0, len(dataset), 1000):
        pixels = np.asarray(dataset.x[start : start + 1000], np.float32)
        pixels = pixels.reshape(len(pixels), -1)
        means[start : start + 1000], spreads[start : start + 1000] = pixels.mean(axis=1), pixels.std(axis=1)
    for what, bad, remedy in (
        ("nearly black", means < _DARK, "Look at the files: 12-bit pictures stored in 16 bits look so."),
        (
            "of one colour",
            (spreads < _FLAT) & (means >= _DARK),
            "Look at the files: there is nothing to be seen on them.",
        ),
    ):
        if bad.any():
            rows = np.flatnonzero(bad)
            by_class = np.bincount(dataset.y[rows], minlength=dataset.classes)
            names = [
                f"{dataset.labels[label]} ({by_class[label]})" for label in np.argsort(-by_class) if by_class[label]
            ]
            level: Literal["problem", "warning"] = "problem" if len(rows) > 0.05 * len(dataset) else "warning"
            yield Finding(level, f"{len(rows)} images are {what}: {_some(names)}", remedy)


def _of_copies(dataset: Dataset) -> Iterator[Finding]:
    digests = np.array([hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in dataset.x])
    _, first, member, counts = np.unique(digests, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == 1:
        yield Finding("problem", "all images are the same picture", "There is nothing to learn: look at the files.")
        return
    lone = [
        dataset.labels[label]
        for label in range(dataset.classes)
        if len(np.unique(member[dataset.y == label])) == 1 and (dataset.y == label).sum() > 1
    ]
    if lone:
        yield Finding("problem", f"all images of {_some(lone)} are one and the same picture", "Add others.")
    torn = [rows for rows in _groups(member, counts) if len(np.unique(dataset.y[rows])) > 1]
    if torn:
        pair = [dataset.labels[label] for label in np.unique(dataset.y[torn[0]])]
        yield Finding(
            "problem", f"{len(torn)} pictures are in several classes, such as {_some(pair)}", "Keep each in one."
        )
    twice = int((counts - 1).sum())
    if twice:
        yield Finding(
            "warning", f"{twice} images are the same as another at this size",
            "Two splits may share a picture, which flatters the accuracy: remove copies, or use --group-pattern.",
        )  # fmt: skip


def _groups(member: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for group in np.flatnonzero(counts > 1):
        yield np.flatnonzero(member == group)


def _some(names: list[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
