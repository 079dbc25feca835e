"""Which folders are classes, which are splits, and which are neither."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.errors import InputError
from edgenas.evaluation.data import load_dataset
from edgenas.evaluation.data.layout import find_classes, is_of_a_program, split_of

SHAPE = (4, 4, 1)
NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
TRAIN = ["train", "Training", "training_set", "seg_train", "asl_alphabet_train", "trainset", "train2017", "TRAIN-DATA"]
TEST = ["test", "Testing", "test_set", "seg_test", "testset", "test_images", "Test Set 2", "test (1)"]
VALIDATION = ["val", "valid_set", "Validation", "validation-set", "val2017", "dev"]
NO_SPLIT = ["trains", "train_station", "test_tube", "valley", "retrain", "contest", "invalid", "training_shoes", "set"]


def make(root: Path, *folders: str, count: int = 1) -> Path:
    """Each folder with `count` images of its own."""
    for place, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("L", (4, 4), 70 + 20 * place + number).save(root / folder / f"{number}.png")
    return root


def below(*tops: str, classes: tuple[str, ...] = ("a", "b")) -> list[str]:
    return [f"{top}/{label}" for top in tops for label in classes]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(name, "train") for name in TRAIN],
        *[(name, "test") for name in TEST],
        *[(name, "validation") for name in VALIDATION],
        *[(name, None) for name in NO_SPLIT],
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (below("train", "test"), {"train", "test"}),
        (below("training_set", "test_set"), {"train", "test"}),
        (below("seg_train/seg_train", "seg_test/seg_test"), {"train", "test"}),
        (below("Training", "Testing"), {"train", "test"}),
        (below("train", "valid", "test"), {"train", "validation", "test"}),
        (below("train2017", "val2017"), {"train", "validation"}),
        ([*below("train", "test"), "@eaDir", "__MACOSX/train", ".venv", "train/lost+found"], {"train", "test"}),
    ],
)  # fmt: skip
def test_splits(folders: list[str], parts: set[str], tmp_path: Path) -> None:
    layout = find_classes(make(tmp_path, *folders), "data")
    assert layout.given and set(layout.folders) == parts and layout.labels == ("a", "b")
    assert all([label for _, label in folders] == ["a", "b"] for folders in layout.folders.values())


def test_splits_are_said_where_they_are_called_otherwise(tmp_path: Path) -> None:
    make(tmp_path / "one", *below("Training_Set", "Test"))
    (note,) = find_classes(tmp_path / "one", "data").notes
    assert note == "Read as splits: Training_Set as train. Rename the folders if they are classes."
    make(tmp_path / "two", *below("seg_train/seg_train", "seg_test/seg_test"))
    (note,) = find_classes(tmp_path / "two", "data").notes
    assert "seg_test/seg_test as test, seg_train/seg_train as train" in note
    make(tmp_path / "three", *below("train", "validation", "test"))
    assert find_classes(tmp_path / "three", "data").notes == ()


@pytest.mark.parametrize(
    "folders",
    [
        ["train", "car", "plane"],
        ["steam_train", "blood_test", "car"],
        ["test", "rest"],
        below("bullet_train", "car", classes=("day1",)),
        ["train/video1", "train/video2", "car/video3", "car/video4"],
    ],
)
def test_classes_that_are_called_like_splits(folders: list[str], tmp_path: Path) -> None:
    layout = find_classes(make(tmp_path, *folders), "data")
    assert not layout.given and layout.labels == tuple(sorted({folder.split("/")[0] for folder in folders}))
    (note,) = layout.notes
    assert note.startswith("Read as classes, though called like splits: ")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["training_set", "test_set"], "expected one sub-folder a class in .*test_set"),
        (below("train", "test", "extra"), "received also 'extra'"),
        ([*below("seg_train", "seg_test"), "seg_pred"], "received also 'seg_pred'. Move it out"),
        ([*below("train"), "unlabelled"], "received also 'unlabelled'"),
        (["seg_train/a", "seg_test/a", "seg_pred"], "received also 'seg_pred'"),
        (below("train", "holdout"), "received also 'holdout'"),
        (below("training_set", "final"), "received also 'final'"),
        (below("train", "training_set"), "'train' and 'training_set' both name the train split"),
        (below("test_set"), "expected a folder 'train'"),
        ([*below("train_set"), "test_set/a"], r"the same classes in test .*differ in \['b'\]"),
        (["Cat", "cat", "dog"], "'Cat' and 'cat' differ in capitals or spaces alone. Merge them"),
        (["red  car", "red car", "dog"], "differ in capitals or spaces alone"),
        (["train/Cat", "train/dog", "test/cat", "test/dog"], "'Cat' and 'cat' differ"),
        ([f"{NFC.upper()}", NFD, "dog"], "differ in capitals"),
    ],
)
def test_what_is_refused(folders: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        find_classes(make(tmp_path, *folders), "data")


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "__MACOSX", "lost+found", ".ipynb_checkpoints", "$RECYCLE.BIN", "System Volume Information", "#recycle",
     "@Recycle", ".Trash-1000", "__pycache__", "LOST.DIR", "found.000", "Thumbnails"],
)  # fmt: skip
def test_folders_of_programs_are_never_classes(name: str, tmp_path: Path) -> None:
    make(tmp_path / "data", "a", "b", name, f"a/{name}", count=5)
    data = load_dataset(tmp_path / "data", SHAPE, cache=tmp_path / "cache")
    assert data.labels == ("a", "b") and len(data) == 10
    assert data.notes == (f"Folders of programs or hidden ones, left out: {name}.",)


@pytest.mark.parametrize("name", ["@", "#", "thumbs", "_other_", "__background__", "found", "recycle", "lost", "$"])
def test_odd_names_of_classes(name: str) -> None:
    assert not is_of_a_program(name)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    make(tmp_path / "data", "a", "b", count=5)
    (tmp_path / "data" / "c" / "deeper").mkdir(parents=True)
    with pytest.raises(InputError, match=r"the class 'c' has 0 images; expected at least 5.* Add images or remove"):
        load_dataset(tmp_path / "data", SHAPE, cache=tmp_path / "cache")
    (tmp_path / "data" / "c" / "labels.txt").write_text("no image")
    with pytest.raises(InputError, match="the class 'c' has 0 images"):
        load_dataset(tmp_path / "data", SHAPE, cache=tmp_path / "cache")
    make(tmp_path / "split", *below("train", "test", classes=("a", "b", "c")), count=6)
    for path in (tmp_path / "split" / "test" / "c").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="the class 'c' has 0 images in test"):
        load_dataset(tmp_path / "split", SHAPE, cache=tmp_path / "cache")


def test_two_encodings_of_a_name_are_one_class(tmp_path: Path) -> None:
    make(tmp_path / "data", NFC, NFD, "tea", count=5)
    if len(list((tmp_path / "data").iterdir())) < 3:
        pytest.skip("this file system takes both names for one")
    data = load_dataset(tmp_path / "data", SHAPE, cache=tmp_path / "cache")
    assert data.labels == (NFC, "tea") and np.bincount(data.y).tolist() == [10, 5]
    assert data.notes == (f"Folders with the same name, encoded in two ways, are one class: {NFC}.",)
    make(tmp_path / "split", f"train/{NFC}", "train/b", f"test/{NFD}", "test/b")
    layout = find_classes(tmp_path / "split", "data")
    assert layout.labels == ("b", NFC) and layout.notes == ()


def test_letters_are_classes_of_their_own(tmp_path: Path) -> None:
    assert find_classes(make(tmp_path, "A", "a", "b"), "data").labels == ("A", "a", "b")


def test_two_encodings_in_an_npz(tmp_path: Path) -> None:
    path, x = tmp_path / "data.npz", np.full((12, 4, 4), 200, np.uint8)
    np.savez(path, x=x, y=np.array([NFC, NFD, "tea", "tea"] * 3))
    data = load_dataset(path, SHAPE, cache=tmp_path / "cache")
    assert data.labels == (NFC, "tea") and np.bincount(data.y).tolist() == [6, 6]
    np.savez(path, x=x, y=np.array([NFC, "tea", NFD, "tea"] * 3), labels=np.array(["tea", NFD]))
    assert load_dataset(path, SHAPE, cache=tmp_path / "cache").labels == ("tea", NFC)
    np.savez(path, x=x, y=np.array(["Tea", "tea"] * 6))
    with pytest.raises(InputError, match="'Tea' and 'tea' differ in capitals"):
        load_dataset(path, SHAPE, cache=tmp_path / "cache")
