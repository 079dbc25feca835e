"""Five splits of a data set, by seed: stratified by class, and never through a group; of small data, folds."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgenas.errors import InputError
from edgenas.evaluation.data.dataset import Dataset
from edgenas.evaluation.data.grouped import allot_groups
from edgenas.evaluation.data.sealed import SealedTest

Indices = NDArray[np.int64]

DEFAULT_FRACTIONS: Mapping[str, float] = MappingProxyType(
    {"test": 0.15, "validation": 0.10, "selection": 0.06, "acceptance": 0.05}
)
"""Shares of the images that are cut; train is the rest (0.64)."""

CAPS: Mapping[str, int] = MappingProxyType({"validation": 10_000, "selection": 5_000, "acceptance": 2_000})
"""More images measure an accuracy no better than needed: of large data, the rest goes to train."""

LEAST_ACCEPTANCE = 60
"""Images: with fewer of them no gate can tell anything, and as little could be told of candidates."""

FOLDS = 3
"""Of small data: parts of train, of which each in turn is held out."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Sorted indices into a `Dataset`, each int64, [n]; no image is in two.

    Attributes:
        train: trains candidates.
        validation: steers the search; empty where folds do.
        selection: chooses among finalists; empty where there are folds.
        acceptance: never trained on and never chosen by; gates and on-device samples.
        test: sealed; opened once, for the chosen candidate.
        folds: parts of train, of small data: each in turn is held out and measured on, the others are trained on.
    """

    train: Indices
    validation: Indices
    selection: Indices
    acceptance: Indices
    test: SealedTest
    folds: tuple[Indices, ...] = ()

    @property
    def rounds(self) -> tuple[tuple[Indices, Indices], ...]:
        """What a candidate is trained on and what it is measured on: once, or once a fold."""
        if not self.folds:
            return ((self.train, self.validation),)
        return tuple((np.setdiff1d(self.train, held_out), held_out) for held_out in self.folds)

    @property
    def choosing(self) -> Indices:
        """What chooses between two files of one trained network: selection, or else what it was trained on."""
        return self.selection if len(self.selection) else self.train

    def sizes(self) -> dict[str, int]:
        """Images a split."""
        names = ("train", "validation", "selection", "acceptance", "test")
        return {name: len(getattr(self, name)) for name in names}


def split(dataset: Dataset, seed: int, fractions: Mapping[str, float] = DEFAULT_FRACTIONS) -> Splits:
    """The splits of a data set: the same for the same data, seed and fractions.

    What the source gives as test or validation is kept; what it does not give is cut from train, as shares of the
    images there, at most `CAPS`. Every class is in train, and in every split where counts (or groups) allow. Where
    acceptance would have fewer than `LEAST_ACCEPTANCE` images it gets those of validation and selection too, and
    `FOLDS` parts of train stand in for these; a validation split that the source gives is kept.

    Raises:
        InputError: a group that lies in two given splits, or too few groups.
    """
    given: dict[str, Indices] = {}
    pool = np.arange(len(dataset))
    if dataset.fixed is not None:
        pool = np.flatnonzero(dataset.fixed == "train")
        names = sorted(set(np.unique(dataset.fixed).tolist()) - {"train"})
        given = {name: np.flatnonzero(dataset.fixed == name) for name in names}
    shares = {
        name: min(share, CAPS.get(name, len(pool)) / len(pool))
        for name, share in fractions.items()
        if name not in given
    }
    rng = np.random.default_rng([seed, 0])
    if dataset.group is None:
        cut = _cut_stratified(dataset.y, pool, shares, rng)
    else:
        _check_given_groups(dataset, given, pool)
        parts = allot_groups(dataset.y[pool], dataset.group[pool], dataset.labels, shares, rng)
        cut = {name: pool[parts == number] for number, name in enumerate(["train", *shares])}
    found = {name: np.sort(indices) for name, indices in {**cut, **given}.items()}
    folds: tuple[Indices, ...] = ()
    if len(found["acceptance"]) < LEAST_ACCEPTANCE and {"acceptance", "selection"} <= cut.keys():
        with contextlib.suppress(InputError):  # too few groups, or images
            folds = () if "validation" in given else _folds(dataset, found["train"], rng)
            spare = ("selection", "validation") if folds else ("selection",)
            found["acceptance"] = np.sort(np.concatenate([found["acceptance"], *(found[name] for name in spare)]))
            found |= dict.fromkeys(spare, found["train"][:0])
    return Splits(
        train=found["train"],
        validation=found["validation"],
        selection=found["selection"],
        acceptance=found["acceptance"],
        test=SealedTest(found["test"], dataset.identity),
        folds=folds,
    )


def _folds(dataset: Dataset, train: Indices, rng: np.random.Generator) -> tuple[Indices, ...]:
    """Parts of train of about one size, each with the classes in their proportions, and whole groups.

    Raises:
        InputError: too few groups, or images: a fold would have none.
    """
    shares = {str(number): 1 / FOLDS for number in range(1, FOLDS)}
    if dataset.group is None:
        parts = _cut_stratified(dataset.y, train, shares, rng)
        if not all(len(part) for part in parts.values()):
            raise InputError(f"{len(train)} images to train on are too few for {FOLDS} folds.")
        return tuple(np.sort(part) for part in parts.values())
    member = allot_groups(dataset.y[train], dataset.group[train], dataset.labels, shares, rng)
    return tuple(train[member == number] for number in range(FOLDS))


def _cut_stratified(
    y: NDArray[np.int64], pool: Indices, shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, Indices]:
    """Cut `shares` out of `pool`, each with the classes in the pool's proportions; "train" is the rest."""
    shuffled = rng.permutation(pool)
    by_class = [shuffled[y[shuffled] == label] for label in np.unique(y[pool])]
    counts = np.array([len(members) for members in by_class])
    taken = np.zeros_like(counts)
    cut = {}
    for waiting, (name, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        # One image of each class stays for train, and one for each split that is still to be cut.
        most = np.maximum(0, counts - taken - waiting)
        take = allot(counts, round(share * len(pool)), most, exact=False)
        cut[name] = np.concatenate(
            [members[start : start + count] for members, start, count in zip(by_class, taken, take, strict=True)]
        )
        taken += take
    cut["train"] = np.concatenate([members[start:] for members, start in zip(by_class, taken, strict=True)])
    return cut


def allot(counts: NDArray[np.int64], total: int, most: NDArray[np.int64], exact: bool = True) -> NDArray[np.int64]:
    """Share out `total` over classes in proportion to `counts`, by the largest remainder.

    Args:
        counts: [classes].
        most: [classes] upper bounds.
        exact: large classes give back what small ones got beyond their share, so that the sum is `total`.

    Returns:
        int64, [classes]: each at least 1 (where `most` allows, even if that is more than `total` in all).
    """
    quota = counts * (total / max(1, int(counts.sum())))
    shares = np.minimum(np.maximum(np.floor(quota).astype(np.int64), np.minimum(1, counts)), most)
    while shares.sum() < min(total, int(most.sum())):
        room = np.where(shares < most, quota - shares, -np.inf)
        order = np.argsort(-room, kind="stable")[: min(total - int(shares.sum()), int((shares < most).sum()))]
        shares[order] += 1
    while exact and shares.sum() > total and (shares > 1).any():
        surplus = np.where(shares > 1, shares - quota, -np.inf)
        shares[np.argmax(surplus)] -= 1
    result: NDArray[np.int64] = shares
    return result


def _check_given_groups(dataset: Dataset, given: Mapping[str, Indices], pool: Indices) -> None:
    assert dataset.group is not None
    groups = {name: set(dataset.group[indices].tolist()) for name, indices in {"train": pool, **given}.items()}
    names = list(groups)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            shared = sorted(groups[name] & groups[other])
            if shared:
                raise InputError(
                    f"{dataset.source}: the group {shared[0]!r} is in both {name} and {other} ({len(shared)} such), "
                    "so the accuracy would be flattered. Move each group into one split."
                )


def stratified_sample(y: ArrayLike, indices: ArrayLike, count: int, seed: int) -> Indices:
    """`count` of `indices`, with the classes in their proportions.

    Args:
        y: int, the class of every image of the data set.
        indices: int, [n], into `y`.
        count: at least 1. Each class gets one at least while `count` is no smaller than the number of classes.

    Returns:
        int64, sorted, [min(count, n)]; the same for the same arguments.

    Raises:
        InputError: a count below 1.
    """
    if count < 1:
        raise InputError(f"Expected a sample of at least one image, received {count}.")
    classes_of, pool = np.asarray(y), np.asarray(indices, np.int64)
    if count >= len(pool):
        return np.sort(pool)
    rng = np.random.default_rng([seed, 1])
    shuffled = rng.permutation(pool)
    by_class = [shuffled[classes_of[shuffled] == label] for label in np.unique(classes_of[pool])]
    if count < len(by_class):
        return np.sort(shuffled[:count])
    counts = np.array([len(members) for members in by_class])
    take = allot(counts, count, most=counts)
    return np.sort(np.concatenate([members[:number] for members, number in zip(by_class, take, strict=True)]))
