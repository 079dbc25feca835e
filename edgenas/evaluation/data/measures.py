"""What a classifier got right: accuracy, recall by class, and how sure a share of right answers is."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgenas.errors import InputError


def metrics(y_true: ArrayLike, y_pred: ArrayLike, classes: int) -> dict[str, Any]:
    """Accuracy of predicted classes; everything in it can be written as JSON.

    Args:
        y_true, y_pred: int, [N], 0 .. classes - 1.

    Returns:
        `accuracy`: share of right answers. `balanced_accuracy`: mean recall of the classes that occur in `y_true`.
        `accuracy_interval` (Wilson's) and `balanced_accuracy_interval`: [low, high], coverage 95%.
        `recall`: by class, None where it does not occur. `n`: images.
        `chance`, `chance_error`: mean and standard error of the balanced accuracy of a guess.

    Raises:
        InputError: no image, different lengths, or a value that is no class.
    """
    true, predicted = _labels(y_true, classes, "y_true"), _labels(y_pred, classes, "y_pred")
    if len(true) != len(predicted) or not len(true):
        raise InputError(
            f"Expected as many predictions as labels, at least one; received {len(predicted)} and {len(true)}."
        )
    seen = np.bincount(true, minlength=classes)
    right = np.bincount(true[true == predicted], minlength=classes)
    recall = [float(hits / of) if of else None for hits, of in zip(right, seen, strict=True)]
    balanced = float(np.mean([share for share in recall if share is not None]))
    return {
        "accuracy": float(right.sum() / len(true)),
        "balanced_accuracy": balanced,
        "accuracy_interval": list(wilson_interval(int(right.sum()), len(true))),
        "balanced_accuracy_interval": _balanced_interval(right[seen > 0], seen[seen > 0]),
        "recall": recall,
        "n": len(true),
        "chance": 1 / int((seen > 0).sum()),
        "chance_error": _chance_error(seen[seen > 0]),
    }


def _chance_error(images: NDArray[np.int64]) -> float:
    """The standard error of a guess's balanced accuracy on so many images [classes that occur]."""
    chance = 1 / len(images)
    return float(np.sqrt((chance * (1 - chance) / images).sum())) / len(images)


def above_chance(found: Mapping[str, Any], errors: float = 3.0) -> bool:
    """Whether a balanced accuracy of `metrics` is so many standard errors above that of a guess."""
    return bool(found["balanced_accuracy"] > found["chance"] + errors * found["chance_error"])


def _balanced_interval(right: NDArray[np.int64], images: NDArray[np.int64]) -> list[float]:
    """The 95% interval of a mean of recalls: Wilson's intervals of the recalls, their margins joined by squaring and
    adding (MOVER; Zou and Donner, Statistics in Medicine 27, 2008, 1693-1702).

    Args:
        right, images: [classes] of each class that occurs.
    """
    recalls = right / images
    ends = np.array([wilson_interval(int(hits), int(of)) for hits, of in zip(right, images, strict=True)])
    below, above = np.sqrt(((ends - recalls[:, None]) ** 2).sum(axis=0)) / len(images)
    return [max(0.0, float(recalls.mean() - below)), min(1.0, float(recalls.mean() + above))]


def wilson_interval(correct: int, n: int, coverage: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share: where the true accuracy lies with probability `coverage`.

    Raises:
        InputError: not 0 <= correct <= n with n >= 1, or a coverage outside 0..1.
    """
    if not (n >= 1 and 0 <= correct <= n and 0 < coverage < 1):
        raise InputError(f"Expected 0 <= correct <= n, received correct={correct}, n={n}, coverage={coverage}.")
    z = NormalDist().inv_cdf((1 + coverage) / 2)
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return (low if correct else 0.0), (high if correct < n else 1.0)


def paired_interval(
    both: int, first_only: int, second_only: int, neither: int, coverage: float = 0.95
) -> tuple[float, float]:
    """Where the difference of two accuracies on the same images (first less second) lies with probability `coverage`.

    Newcombe's method 10 (Statistics in Medicine 17, 1998, 2635-2650): Wilson's intervals of both accuracies, joined by
    squaring and adding, with their correlation taken off. Unlike the normal approximation it holds for few images and
    for accuracies near 1.

    Args:
        both, first_only, second_only, neither: images that both get right, only the first, only the second, none.

    Raises:
        InputError: a negative count, no image, or a coverage outside 0..1.
    """
    counts = both, first_only, second_only, neither
    if min(counts) < 0:
        raise InputError(f"Expected counts of images, received {counts}.")
    n, right, right_too = sum(counts), both + first_only, both + second_only
    ends = [wilson_interval(number, n, coverage) for number in (right, right_too)]
    (below, above), (below_too, above_too) = (
        (number / n - low, high - number / n) for number, (low, high) in zip((right, right_too), ends, strict=True)
    )
    margins = right * (n - right) * right_too * (n - right_too)
    excess = both * neither - first_only * second_only
    correlation = 0.0
    if margins > 0:
        correlation = (max(excess - n / 2, 0.0) if excess > 0 else excess) / math.sqrt(margins)
    difference = (first_only - second_only) / n

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))

    return difference - reach(below, above_too), difference + reach(above, below_too)


def class_weights(y: ArrayLike, classes: int) -> NDArray[np.float32]:
    """[classes]: weights under which every class that occurs counts the same; their mean over `y` is 1.

    A class that does not occur weighs 0.
    """
    labels = _labels(y, classes, "y")
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.zeros(classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights


def _labels(y: ArrayLike, classes: int, name: str) -> NDArray[np.int64]:
    labels = np.asarray(y)
    if labels.ndim != 1 or (
        labels.size and (labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < classes)
    ):
        raise InputError(
            f"{name}: expected integers [N] of 0..{classes - 1}, received {labels.dtype} {list(labels.shape)}."
        )
    return labels.astype(np.int64)
