"""Splits: disjoint, complete, stratified, never through a group, the same by seed; the test split sealed.

Most data here are small, which has acceptance take the place of two other splits: `split_in_five` has it so never.
"""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import CheckFailedError, InputError
from edgenas.evaluation.data import Dataset, SealedTest, Splits, split, splits, stratified_sample
from edgenas.ledger import Ledger

NAMES = ("train", "validation", "selection", "acceptance")


def dataset(y: list[int], group: list[int] | None = None, fixed: list[str] | None = None) -> Dataset:
    labels = tuple(str(label) for label in range(max(y) + 1))
    return Dataset(
        x=np.zeros((len(y), 1, 1, 1), np.uint8),
        y=np.array(y),
        labels=labels,
        group=None if group is None else np.array(group).astype(str),
        fixed=None if fixed is None else np.array(fixed),
        left_out=(),
        notes=(),
        identity="id",
        source="made up",
        policy="pad",
        input_shape=(1, 1, 1),
        folder=Path("nowhere"),
    )


def split_in_five(data: Dataset, seed: int) -> Splits:
    """The splits as those of large data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "LEAST_ACCEPTANCE", 0)
        return split(data, seed)


def opened(parts: Splits, tmp_path: Path) -> dict[str, np.ndarray]:
    indices = pickle.loads(pickle.dumps(parts)).test.open(Ledger(tmp_path / "l.jsonl"), "test", "s", "c")
    return {**{name: getattr(parts, name) for name in NAMES}, "test": indices}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("splits")


def is_partition(found: dict[str, np.ndarray], count: int) -> bool:
    return sorted(np.concatenate(list(found.values())).tolist()) == list(range(count))


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(5, 60), min_size=2, max_size=7), seed=st.integers(0, 2**32))
def test_splits_are_a_stratified_partition(folder: Path, counts: list[int], seed: int) -> None:
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    data = dataset(y)
    found = opened(split_in_five(data, seed), folder)
    assert is_partition(found, len(y))
    for indices in found.values():
        assert (np.diff(indices) > 0).all()
        assert (np.bincount(data.y[indices], minlength=len(counts)) >= 1).all()
    for name, fraction in {"test": 0.15, "validation": 0.1, "selection": 0.06, "acceptance": 0.05}.items():
        inside = np.bincount(data.y[found[name]], minlength=len(counts))
        assert (np.abs(inside - np.maximum(1, fraction * np.array(counts))) < 2).all()
    again = opened(split_in_five(data, seed), folder)
    assert all((again[name] == found[name]).all() for name in found)


def test_another_seed_is_another_split() -> None:
    data = dataset([0, 1] * 100)
    assert split(data, 0).train.tolist() != split(data, 1).train.tolist()


def test_default_sizes_and_caps() -> None:
    assert split_in_five(dataset([0, 1] * 500), 0).sizes() == {
        "train": 640, "validation": 100, "selection": 60, "acceptance": 50, "test": 150,
    }  # fmt: skip
    assert split(dataset([0, 1] * 500), 0).sizes() == {
        "train": 640, "validation": 0, "selection": 0, "acceptance": 210, "test": 150,
    }  # fmt: skip
    assert split(dataset([0, 1] * 100_000), 0).sizes() == {
        "train": 153_000, "validation": 10_000, "selection": 5_000, "acceptance": 2_000, "test": 30_000,
    }  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=15, max_size=60),
    classes=st.integers(2, 4),
    seed=st.integers(0, 2**32),
)
def test_a_group_is_never_in_two_splits(folder: Path, sizes: list[int], classes: int, seed: int) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    y = group % classes
    data = dataset(y.tolist(), group.tolist())
    found = opened(split_in_five(data, seed), folder)
    assert is_partition(found, len(y))
    where = {name: set(group[indices].tolist()) for name, indices in found.items()}
    assert sum(len(groups) for groups in where.values()) == len(sizes)
    assert all(len(indices) for indices in found.values())
    assert set(y[found["train"]].tolist()) == set(range(classes))
    again = opened(split_in_five(data, seed), folder)
    assert all((again[name] == found[name]).all() for name in found)


def test_groups_in_good_number_keep_sizes_and_classes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 40, 300)
    group = np.repeat(np.arange(300), sizes)
    y = (rng.random(len(group)) < 0.3).astype(int)
    found = opened(split_in_five(dataset(y.tolist(), group.tolist()), 3), folder)
    shares = {"train": 0.64, "validation": 0.1, "selection": 0.06, "acceptance": 0.05, "test": 0.15}
    for name, share in shares.items():
        assert abs(len(found[name]) / len(y) - share) < 0.01
        assert abs(y[found[name]].mean() - y.mean()) < 0.02


def test_five_equal_groups_fill_five_splits(folder: Path) -> None:
    group = np.repeat(np.arange(5), 20)
    found = opened(split_in_five(dataset([0, 1] * 50, group.tolist()), 0), folder)
    assert [len(indices) for indices in found.values()] == [20] * 5


def test_groups_that_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"at least 5 groups.*received 3: 0, 1, 2"):
        split(dataset([0, 1] * 15, [0] * 10 + [1] * 10 + [2] * 10), 0)
    y = np.repeat(np.arange(5), 10)
    with pytest.raises(InputError, match=r"The groups leave .* without images"):
        split(dataset(y.tolist(), y.tolist()), 0)


def test_given_splits_are_kept_and_the_rest_is_cut_from_train(folder: Path) -> None:
    fixed = ["train"] * 100 + ["test"] * 20 + ["validation"] * 10
    found = opened(split_in_five(dataset([0, 1] * 65, fixed=fixed), 0), folder)
    assert found["test"].tolist() == list(range(100, 120)) and found["validation"].tolist() == list(range(120, 130))
    assert len(found["selection"]) == 6 and len(found["acceptance"]) == 5 and is_partition(found, 130)


# Small data


def is_stratified(y: np.ndarray, folds: tuple[np.ndarray, ...], train: np.ndarray) -> bool:
    counts = np.array([np.bincount(y[fold], minlength=y.max() + 1) for fold in folds])
    return bool((np.abs(counts - np.bincount(y[train]) / len(folds)) < 2).all())


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(8, 150), min_size=2, max_size=7), seed=st.integers(0, 2**32))
def test_of_small_data_parts_of_train_stand_in_for_validation_and_selection(
    folder: Path, counts: list[int], seed: int
) -> None:
    """Whose images acceptance gets; train and test are what they would be without."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    data = dataset(y.tolist())
    parts, five = split(data, seed), split_in_five(data, seed)
    assert len(five.acceptance) < splits.LEAST_ACCEPTANCE
    found, before = opened(parts, folder), opened(five, folder)
    assert is_partition(found, len(y))
    assert (len(found["validation"]), len(found["selection"])) == (0, 0)
    assert all((found[name] == before[name]).all() for name in ("train", "test"))
    assert len(parts.folds) == splits.FOLDS and (np.sort(np.concatenate(parts.folds)) == parts.train).all()
    assert all((np.diff(indices) > 0).all() for indices in (parts.acceptance, *parts.folds))
    sizes = [len(fold) for fold in parts.folds]
    assert max(sizes) - min(sizes) <= len(counts)
    assert is_stratified(y, parts.folds, parts.train)
    again = split(data, seed)
    assert all((one == other).all() for one, other in zip(parts.folds, again.folds, strict=True))


def test_a_round_holds_out_each_image_of_train_once() -> None:
    parts = split(dataset([0, 1, 2] * 100), 0)
    assert len(parts.rounds) == 3
    for (trained_on, held_out), fold in zip(parts.rounds, parts.folds, strict=True):
        assert (held_out == fold).all()
        assert (np.sort(np.concatenate([trained_on, held_out])) == parts.train).all()
        assert abs(len(held_out) - len(parts.train) / 3) <= 3
    assert (parts.choosing == parts.train).all()


@pytest.mark.parametrize(("images", "folds"), [(1180, 3), (1200, 0), (3000, 0)])
def test_large_data_have_no_folds(images: int, folds: int) -> None:
    """A twentieth of them is what acceptance would have."""
    parts = split(dataset([0, 1] * (images // 2)), 0)
    assert len(parts.folds) == folds
    assert len(parts.acceptance) >= splits.LEAST_ACCEPTANCE
    if not folds:
        assert (parts.acceptance == split_in_five(dataset([0, 1] * (images // 2)), 0).acceptance).all()
        ((trained_on, held_out),) = parts.rounds
        assert (trained_on == parts.train).all() and (held_out == parts.validation).all()
        assert (parts.choosing == parts.selection).all() and len(parts.selection)


def test_a_fold_never_cuts_through_a_group(folder: Path) -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), rng.integers(3, 12, 60))
    y = (rng.random(len(group)) < 0.4).astype(int)
    parts = split(dataset(y.tolist(), group.tolist()), 1)
    assert is_partition(opened(parts, folder), len(y)) and len(parts.folds) == 3
    assert (np.sort(np.concatenate(parts.folds)) == parts.train).all()
    held = [set(group[fold].tolist()) for fold in parts.folds]
    assert sum(len(groups) for groups in held) == len(set(group[parts.train].tolist()))
    assert all((np.bincount(y[fold], minlength=2) > 0).all() for fold in parts.folds)
    assert max(len(fold) for fold in parts.folds) < 1.3 * min(len(fold) for fold in parts.folds)
    inside, outside = (set(group[indices].tolist()) for indices in (parts.train, parts.acceptance))
    assert not inside & outside


def test_too_few_groups_for_folds_leave_the_five_splits() -> None:
    """As of five patients: each has a split of its own."""
    group = np.repeat(np.arange(5), 20)
    parts = split(dataset([0, 1] * 50, group.tolist()), 0)
    assert parts.folds == ()
    assert set(parts.sizes().values()) == {20}
    assert (parts.rounds[0][1] == parts.validation).all() and (parts.choosing == parts.selection).all()


def test_a_given_validation_split_is_kept_of_small_data_too(folder: Path) -> None:
    """Then acceptance gets selection alone."""
    fixed = ["train"] * 100 + ["test"] * 20 + ["validation"] * 10
    parts = split(dataset([0, 1] * 65, fixed=fixed), 0)
    found = opened(parts, folder)
    assert parts.folds == () and is_partition(found, 130)
    assert found["validation"].tolist() == list(range(120, 130))
    assert (len(found["train"]), len(found["selection"]), len(found["acceptance"])) == (89, 0, 11)
    assert (parts.choosing == parts.train).all()


def test_a_given_test_split_is_kept_of_small_data_too(folder: Path) -> None:
    parts = split(dataset([0, 1] * 60, fixed=["train"] * 100 + ["test"] * 20), 0)
    assert opened(parts, folder)["test"].tolist() == list(range(100, 120))
    assert (parts.sizes()["train"], parts.sizes()["acceptance"], len(parts.folds)) == (79, 21, 3)


@pytest.mark.parametrize("images", [5, 6, 7, 8, 9, 12])
def test_of_very_few_images_every_round_has_something_to_train_on_and_something_to_measure(images: int) -> None:
    parts = split(dataset([0, 1] * images), 0)
    for trained_on, held_out in parts.rounds:
        assert set(trained_on.tolist()) and len(held_out)
        assert not set(trained_on.tolist()) & set(held_out.tolist())


def test_a_group_in_two_given_splits_is_refused() -> None:
    fixed = ["train"] * 100 + ["test"] * 20
    group = [number // 10 for number in range(100)] + [9] * 20
    with pytest.raises(InputError, match=r"the group '9' is in both train and test \(1 such\)"):
        split(dataset([0, 1] * 60, group, fixed), 0)


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=6), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_stratified_sample(counts: list[int], share: float, seed: int) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    indices = np.arange(len(y))[::-1]
    count = max(1, round(share * len(y)))
    chosen = stratified_sample(y, indices, count, seed)
    assert len(set(chosen.tolist())) == len(chosen) == count and (np.diff(chosen) > 0).all()
    if count >= len(counts):
        assert (np.bincount(y[chosen], minlength=len(counts)) >= 1).all()
    assert (stratified_sample(y, indices, count, seed) == chosen).all()


def test_a_sample_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least one image, received 0"):
        stratified_sample([0, 1], [0, 1], 0, 0)


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=6), total=st.integers(0, 100))
def test_allot_keeps_its_bounds(counts: list[int], total: int) -> None:
    have = np.array(counts)
    shares = splits.allot(have, total, most=have)
    assert (shares >= 1).all() and (shares <= have).all()
    assert shares.sum() == min(max(total, len(counts)), have.sum())


def test_the_test_split_is_sealed() -> None:
    sealed = SealedTest(np.arange(7), "id")
    assert len(sealed) == 7 and "sealed" in repr(sealed) and "3" not in repr(sealed)
    for look in (lambda: list(sealed), lambda: sealed[0], lambda: np.asarray(sealed)):
        with pytest.raises(CheckFailedError, match=r"The test split is sealed: use .open"):
            look()
    known = {"open", "refuse_second", "candidates", "digest", "identity"}
    assert {name for name in dir(sealed) if not name.startswith("_")} == known


def test_an_opening_is_in_the_ledger_and_a_second_needs_a_word(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    sealed = SealedTest(np.arange(7), "id")
    assert sealed.open(ledger, "final accuracy", study="s", candidate="aaa").tolist() == list(range(7))
    (entry,) = ledger.entries("test_opened")
    assert (entry["study"], entry["candidate"], entry["purpose"], entry["data"]) == ("s", "aaa", "final accuracy", "id")
    assert entry["opening"] == 1 and entry["again"] is False and entry["split"] == sealed.digest
    with pytest.raises(CheckFailedError, match=re.escape(f"opened first at {entry['time']} for aaa")):
        sealed.open(ledger, "another look", study="s", candidate="bbb")
    assert len(ledger.entries("test_opened")) == 1
    sealed.open(ledger, "int8 of the same", study="s", candidate="aaa")
    sealed.open(ledger, "other study", study="t", candidate="bbb")
    sealed.open(ledger, "another look", study="s", candidate="bbb", again=True)
    with pytest.raises(CheckFailedError, match="for bbb"):
        sealed.open(ledger, "back to the first", study="s", candidate="aaa")
    last = json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[-1])
    assert last["again"] is True and last["opening"] == 3


def test_every_opening_is_recorded_not_the_first_alone(tmp_path: Path) -> None:
    """Who looked how often for what stands in the ledger, each study's looks counted for itself."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    sealed = SealedTest(np.arange(7), "id")
    looks = [("s", "aaa", False), ("t", "ccc", False), ("s", "aaa", False), ("s", "bbb", True), ("s", "bbb", True)]
    for number, (study, candidate, again) in enumerate(looks, start=1):
        sealed.open(ledger, f"look {number}", study, candidate, again=again)
        assert len(ledger.entries("test_opened")) == number
    keys = ("study", "candidate", "purpose", "opening", "again", "images")
    assert [tuple(entry[key] for key in keys) for entry in ledger.entries("test_opened")] == [
        ("s", "aaa", "look 1", 1, False, 7),
        ("t", "ccc", "look 2", 1, False, 7),
        ("s", "aaa", "look 3", 2, True, 7),
        ("s", "bbb", "look 4", 3, True, 7),
        ("s", "bbb", "look 5", 4, True, 7),
    ]
    assert [sealed.candidates(ledger, study) for study in ("s", "t", "u")] == [2, 1, 0]
    other = SealedTest(np.arange(8), "id")
    assert sealed.digest == SealedTest(np.arange(7), "other").digest != other.digest


def test_nothing_is_given_out_when_the_ledger_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        SealedTest(np.arange(7), "id").open(Ledger(tmp_path / "file" / "ledger.jsonl"), "p", "s", "c")
