"""Splits that never cut through a group (a patient, a video): a deterministic greedy allotment, then a repair.

scikit-learn's `StratifiedGroupKFold` makes folds of equal size; these splits are of five sizes, and the small ones
must not come out empty. So each group, the largest first, goes where it brings the counts of each class nearest to
what they should be (least chi-square); then groups are moved until every class is in every split, where it can be.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgenas.errors import InputError

_TRAIN = 0


def allot_groups(
    y: NDArray[np.int64],
    group: NDArray[np.str_],
    labels: Sequence[str],
    shares: Mapping[str, float],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The split of each image: 0 is train, then `shares` in order.

    Args:
        y: [N], 0 .. len(labels) - 1.
        group: [N].
        shares: of the images, by split; train is the rest.

    Returns:
        int64, [N].

    Raises:
        InputError: fewer groups than splits, or groups that leave a split empty or a class out of train.
    """
    names, member = np.unique(group, return_inverse=True)
    splits = len(shares) + 1
    if len(names) < splits:
        raise InputError(
            f"Expected at least {splits} groups, so that each of {splits} splits has one; received {len(names)}: "
            f"{', '.join(names.tolist())}."
        )
    counts = np.zeros((len(names), len(labels)), np.int64)  # images by group and class
    np.add.at(counts, (member, y), 1)
    fractions = np.array([1 - sum(shares.values()), *shares.values()])
    part = _greedy(counts, fractions[:, np.newaxis] * counts.sum(axis=0), rng)
    _repair(part, counts, splits)
    for number, name in enumerate(["train", *shares]):
        inside = counts[part == number].sum(axis=0)
        missing = np.flatnonzero(inside == 0)
        if not inside.any() or (number == _TRAIN and len(missing)):
            of = f" of {labels[missing[0]]!r}" if inside.any() else ""
            raise InputError(
                f"The groups leave {name} without images{of}: each class needs images in at least {splits} groups for "
                "every split to have some. Name finer groups, or add data."
            )
    result: NDArray[np.int64] = part[member]
    return result


def _greedy(counts: NDArray[np.int64], target: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The split of each group; target: [splits, classes], images wanted."""
    sizes = counts.sum(axis=1)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-sizes[order], kind="stable")]
    part = np.zeros(len(counts), np.int64)
    have = np.zeros_like(target)
    for index in order:
        classes = np.flatnonzero(counts[index])
        adds = counts[index, classes]
        wanted = target[:, classes]
        # How much sum((have - target)^2 / target) grows, by split.
        growth = (adds * (2 * (have[:, classes] - wanted) + adds) / np.maximum(wanted, 1e-9)).sum(axis=1)
        part[index] = np.argmin(growth)
        have[part[index], classes] += adds
    return part


def _repair(part: NDArray[np.int64], counts: NDArray[np.int64], splits: int) -> None:
    """Move groups, small ones first, so that every class is in every split, train before the others.

    Where there are too few groups for that: so that every class is in train, and something in every split.
    """
    has = counts > 0
    order = np.argsort(counts.sum(axis=1), kind="stable")
    groups_in = np.zeros((splits, counts.shape[1]), np.int64)  # groups that hold a class, by split
    for number in range(splits):
        groups_in[number] = has[part == number].sum(axis=0)

    def donors(label: int, taker: int, least: int) -> Iterator[int]:
        """Groups with a class, whose split still has every one of their classes without them."""
        for index in order:
            if has[index, label] and part[index] != taker:
                left = groups_in[part[index], has[index]]
                if (left > least).all():
                    yield int(index)

    def move(index: int, taker: int) -> None:
        groups_in[part[index], has[index]] -= 1
        groups_in[taker, has[index]] += 1
        part[index] = taker

    for taker in range(splits):
        for label in np.argsort(has.sum(axis=0), kind="stable").tolist():
            if groups_in[taker, label]:
                continue
            found = next(donors(label, taker, 1), None)
            if found is None and taker == _TRAIN:
                found = next(donors(label, taker, 0), None)
            if found is not None:
                move(found, taker)
    for taker in range(splits):
        if (part != taker).all():
            spare = (
                index
                for index in order.tolist()
                if (part == part[index]).sum() > 1
                and (part[index] != _TRAIN or (groups_in[_TRAIN, has[index]] > 1).all())
            )
            found = next(spare, None)
            if found is not None:
                move(found, taker)
