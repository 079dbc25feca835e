"""What a user may name as data, good and bad."""

import gzip
import os
import pickle
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.errors import InputError
from edgenas.evaluation.data import Dataset, fashion_mnist, load_dataset, split

SHAPE = (8, 8, 1)


def fill(folder: Path, count: int, value: int = 0, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (8, 8), value + number).save(folder / f"{number:03}.{suffix}")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "data" / "cat", 6, 0)
    fill(tmp_path / "data" / "dog", 5, 100)
    return tmp_path / "data"


def test_class_folders(root: Path, cache: Path) -> None:
    (root / ".git").mkdir()
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "notes.txt").write_text("not an image, and not taken for one")
    fill(root / "cat" / "more" / "deep", 1, 50)
    data = load_dataset(str(root), SHAPE, cache=cache)
    assert data.labels == ("cat", "dog") and data.classes == 2 and len(data) == 12
    assert isinstance(data.x, np.memmap) and data.x.dtype == np.uint8 and data.x.shape == (12, 8, 8, 1)
    assert data.y.tolist() == [0] * 7 + [1] * 5
    assert data.x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 50, 100, 101, 102, 103, 104]
    assert data.left_out == () and data.group is None and data.fixed is None
    with pytest.raises(ValueError, match="read-only"):
        data.x[0] = 1


def test_identity_is_of_the_content(root: Path, cache: Path, tmp_path: Path) -> None:
    first = load_dataset(root, SHAPE, cache=cache)
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    assert load_dataset(root, SHAPE, cache=cache).identity == first.identity
    moved = root.rename(tmp_path / "elsewhere")
    assert load_dataset(moved, SHAPE, cache=cache).identity == first.identity
    assert load_dataset(moved, (4, 4, 3), "fit", cache=cache).identity == first.identity
    Image.new("L", (8, 8), 77).save(moved / "cat" / "000.png")
    changed = load_dataset(moved, SHAPE, cache=cache)
    assert changed.identity != first.identity and changed.x[0, 0, 0, 0] == 77


def test_a_data_set_is_decoded_once(root: Path, cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    load_dataset(root, SHAPE, cache=cache, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(11, 11)]
    load_dataset(root, SHAPE, cache=cache, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 1
    load_dataset(root, SHAPE, "crop", cache=cache, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 2


def test_pickled_it_is_a_path(root: Path, cache: Path) -> None:
    data = load_dataset(root, SHAPE, cache=cache)
    sent = pickle.dumps(data)
    again = pickle.loads(sent)
    assert len(sent) < 1000 and isinstance(again, Dataset) and (again.x == data.x).all()


@pytest.mark.parametrize("validation", ["validation", "val", "valid", None])
def test_given_splits(tmp_path: Path, cache: Path, validation: str | None) -> None:
    root = tmp_path / "data"
    for part, count in [("train", 20), ("test", 3), *([(validation, 2)] if validation else [])]:
        for number, label in enumerate(("a", "b")):
            fill(root / part / label, count, 100 * number)
    data = load_dataset(root, SHAPE, cache=cache)
    assert data.fixed is not None and (data.fixed == "test").sum() == 6
    sizes = split(data, 0).sizes()
    assert sizes["test"] == 6 and sum(sizes.values()) == len(data)
    assert sizes["validation"] == (4 if validation else 0), "of data so small nothing is cut for it"
    assert (sizes["train"], sizes["acceptance"], sizes["selection"]) == ((36, 4, 0) if validation else (32, 8, 0))


def test_split_folders_that_cannot_be_used(tmp_path: Path, cache: Path) -> None:
    for part in ("train", "test"):
        for label in ("a", "b"):
            fill(tmp_path / "one" / part / label, 6)
    fill(tmp_path / "one" / "test" / "c", 6)
    with pytest.raises(InputError, match=r"the same classes in test as in train; they differ in \['c'\]"):
        load_dataset(tmp_path / "one", SHAPE, cache=cache)
    fill(tmp_path / "one" / "extra" / "a", 1)
    with pytest.raises(InputError, match="received also 'extra'"):
        load_dataset(tmp_path / "one", SHAPE, cache=cache)
    for part in ("train", "val", "valid"):
        fill(tmp_path / "two" / part / "a", 6)
    with pytest.raises(InputError, match="'val' and 'valid' both name the validation split"):
        load_dataset(tmp_path / "two", SHAPE, cache=cache)
    fill(tmp_path / "three" / "test" / "a", 6)
    with pytest.raises(InputError, match="expected a folder 'train'"):
        load_dataset(tmp_path / "three", SHAPE, cache=cache)


def test_a_class_may_be_called_train(tmp_path: Path, cache: Path) -> None:
    for label in ("train", "car", "plane"):
        fill(tmp_path / "data" / label, 5)
    assert load_dataset(tmp_path / "data", SHAPE, cache=cache).labels == ("car", "plane", "train")


def test_a_class_with_one_image_is_named(root: Path, cache: Path) -> None:
    fill(root / "emu", 1)
    with pytest.raises(InputError, match="the class 'emu' has 1 image; expected at least 5, so that every split"):
        load_dataset(root, SHAPE, cache=cache)


def test_no_class_and_one_class(tmp_path: Path, cache: Path) -> None:
    fill(tmp_path / "flat", 3)
    with pytest.raises(InputError, match="expected one sub-folder a class"):
        load_dataset(tmp_path / "flat", SHAPE, cache=cache)
    fill(tmp_path / "single" / "only", 9)
    with pytest.raises(InputError, match="at least two classes, received only 'only'"):
        load_dataset(tmp_path / "single", SHAPE, cache=cache)
    fill(tmp_path / "nested" / "inner" / "a", 5)
    fill(tmp_path / "nested" / "inner" / "b", 5)
    with pytest.raises(InputError, match=r"Did you mean .*inner\?"):
        load_dataset(tmp_path / "nested", SHAPE, cache=cache)
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "b").mkdir()
    with pytest.raises(InputError, match="the class 'a' has 0 images"):
        load_dataset(tmp_path / "empty", SHAPE, cache=cache)


def test_an_unreadable_file_is_named_and_left_out(root: Path, cache: Path) -> None:
    fill(root / "cat", 120)
    (root / "cat" / "text.jpg").write_text("text")
    data = load_dataset(root, SHAPE, cache=cache)
    assert len(data) == 125 and data.x.shape[0] == 125
    assert [path for path, _ in data.left_out] == ["cat/text.jpg"] and "no image" in data.left_out[0][1]
    (root / "dog" / "link.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"more than 1% of 127 files .*cat/text.jpg: no image.*dog/link.png: No such"):
        load_dataset(root, SHAPE, cache=cache)
    (root / "dog" / "link.png").unlink()
    assert load_dataset(root, SHAPE, cache=cache).left_out == data.left_out


def test_links_out_of_the_folder_and_round_in_circles(root: Path, cache: Path, tmp_path: Path) -> None:
    fill(tmp_path / "outside", 5, 200)
    (root / "fox").symlink_to(tmp_path / "outside")
    (root / "cat" / "loop").symlink_to(root / "cat")
    data = load_dataset(root, SHAPE, cache=cache)
    assert data.labels == ("cat", "dog", "fox") and len(data) == 16


def test_groups_by_pattern(tmp_path: Path, cache: Path) -> None:
    for label in ("a", "b"):
        for patient in range(8):
            fill(tmp_path / "data" / label / f"patient{patient}", 2)
    data = load_dataset(tmp_path / "data", SHAPE, cache=cache, group_pattern=r"patient(\d+)/")
    assert data.group is not None and sorted(set(data.group.tolist())) == [str(number) for number in range(8)]
    with pytest.raises(InputError, match=r"does not match 'a/patient0/000.png'"):
        load_dataset(tmp_path / "data", SHAPE, cache=cache, group_pattern="(clinic)")
    with pytest.raises(InputError, match="marks no group"):
        load_dataset(tmp_path / "data", SHAPE, cache=cache, group_pattern="patient")
    with pytest.raises(InputError, match="It is a regular expression"):
        load_dataset(tmp_path / "data", SHAPE, cache=cache, group_pattern="(")
    with pytest.raises(InputError, match="Use its group array"):
        load_dataset("digits", SHAPE, cache=cache, group_pattern="(a)")


def test_what_does_not_exist(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match=r"or one of fashion-mnist, digits; received 'digit', which does not exist"):
        load_dataset("digit", SHAPE, cache=cache)
    with pytest.raises(InputError, match=r"Did you mean 'fashion-mnist'\?"):
        load_dataset("fashion_mnist", SHAPE, cache=cache)
    (tmp_path / "flowers").mkdir()
    with pytest.raises(InputError, match=r"Did you mean 'flowers'\?"):
        load_dataset(tmp_path / "flower", SHAPE, cache=cache)
    with pytest.raises(InputError, match="received '', which does not exist"):
        load_dataset("", SHAPE, cache=cache)
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(InputError, match="which is none of these"):
        load_dataset(tmp_path / "data.csv", SHAPE, cache=cache)


def test_npz(tmp_path: Path, cache: Path) -> None:
    x = np.random.default_rng(0).random((20, 8, 8), dtype=np.float32)
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=x, y=np.arange(20) % 2 + 3, group=np.arange(20) // 2)
    data = load_dataset(path, SHAPE, cache=cache)
    assert data.labels == ("3", "4") and data.y.tolist() == [0, 1] * 10
    assert data.group is not None and data.group[2] == "1"
    assert data.notes == (f"x is float32 with values up to {x.max():g}: read as 0..1.",)
    assert (data.x[..., 0] == np.rint(x * 255)).all()
    np.savez(path, x=x, y=np.array(["no", "yes"] * 10), labels=["yes", "no"])
    data = load_dataset(path, SHAPE, cache=cache)
    assert data.labels == ("yes", "no") and data.y[:2].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((9, 8, 8)), "y": np.zeros(9, int)}, "received no 'x'. It holds: images, y"),
        ({"x": np.zeros((9, 8, 8)), "y": np.zeros(8, int)}, r"received x \[9, 8, 8\] and y \[8\]"),
        ({"x": np.zeros((9, 8, 8)), "y": np.zeros((9, 2), int)}, "argmax"),
        ({"x": np.zeros((9, 8, 8)), "y": np.zeros(9)}, "one integer or string an image, received float64"),
        (
            {"x": np.zeros((9, 8, 8)), "y": np.zeros(9, object)},
            "allow_pickle=False. Write them .* without Python",
        ),
        ({"x": np.zeros((9, 8, 8)), "y": np.zeros(9, int)}, "at least two classes, received only '0'"),
        ({"x": np.zeros((9, 8, 8)), "y": np.array([0] * 8 + [1])}, "class '1' has 1 image; expected at least 5"),
        ({"x": np.full((10, 8, 8), np.nan), "y": np.arange(10) % 2}, "data.npz: x: .*NaN"),
        ({"x": np.zeros((10, 8, 8)), "y": np.arange(10) % 2, "labels": ["a"]}, r"expected 0..0 for 1 labels"),
        ({"x": np.zeros((10, 8, 8)), "y": np.array(["a", "b"] * 5), "labels": ["a", "bb"]}, "y holds 'b'"),
        ({"x": np.zeros((10, 8, 8)), "y": np.arange(10) % 2, "group": np.zeros(3)}, "group: expected"),
        ({"x": np.zeros((10, 8, 8)), "y": np.array([b"\xff", b"a"] * 5)}, "The data .* cannot be read: 'ascii' codec"),
        ({"x": np.zeros((10, 8, 8)), "y": np.arange(10) % 2, "labels": np.array([b"\xff", b"a"])}, "cannot be read"),
        ({"x": np.zeros((10, 8, 8)), "y": np.arange(10) % 2, "group": np.array([b"\xff"] * 10)}, "cannot be read"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, cache: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path / "data.npz", SHAPE, cache=cache)


def test_names_in_bytes_are_names(tmp_path: Path, cache: Path) -> None:
    x = np.arange(640, dtype=np.uint8).reshape(10, 8, 8)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(10) % 2, labels=np.array([b"no", b"yes"]), group=[b"a", b"b"] * 5)
    data = load_dataset(tmp_path / "data.npz", SHAPE, cache=cache)
    assert data.labels == ("no", "yes") and data.group is not None and data.group[:2].tolist() == ["a", "b"]


def test_a_home_that_nobody_has(cache: Path) -> None:
    with pytest.raises(InputError, match=r"The path '~nobody-here/x' cannot be read: .*Write it without ~\."):
        load_dataset("~nobody-here/x", SHAPE, cache=cache)


def test_a_damaged_npz(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"cannot be read: it is no zip archive\. Write them with numpy\.savez"):
        load_dataset(path, SHAPE, cache=cache)
    np.savez_compressed(path, x=np.random.default_rng(0).random((50, 8, 8)), y=np.arange(50) % 2)
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"The data .* cannot be read: "):
        load_dataset(path, SHAPE, cache=cache)


def test_digits(cache: Path) -> None:
    data = load_dataset("digits", (8, 8, 1), cache=cache)
    assert len(data) == 1797 and data.classes == 10 and data.x.max() == 255
    assert load_dataset("digits", (28, 28, 3), cache=cache).x.shape == (1797, 28, 28, 3)


def idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def test_fashion_mnist_from_a_keras_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "nothing")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError, match="apt-get install dataset-fashion-mnist"):
        load_dataset("fashion-mnist", SHAPE, cache=cache)
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for part, count in (("train", 100), ("t10k", 20)):
        idx(folder / f"{part}-images-idx3-ubyte.gz", np.full((count, 28, 28), count))
        idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    data = load_dataset("fashion-mnist", (28, 28, 1), cache=cache)
    assert len(data) == 120 and data.labels[0] == "T-shirt/top"
    assert len(split(data, 0).test) == 20 and data.x[-1].max() == 20
    path = folder / r"t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte.gz cannot be read: .*\. It is damaged"):
        load_dataset("fashion-mnist", (28, 28, 1), cache=cache)


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.is_dir(), reason="the package dataset-fashion-mnist is missing")
def test_fashion_mnist(cache: Path) -> None:
    data = load_dataset("fashion-mnist", (28, 28, 1), cache=cache)
    assert len(data) == 70_000 and data.x.shape == (70_000, 28, 28, 1)
    sizes = split(data, 0).sizes()
    assert sizes == {"train": 48_400, "validation": 6_000, "selection": 3_600, "acceptance": 2_000, "test": 10_000}


KILLED = """
import os, signal, sys
from pathlib import Path
from edgenas.evaluation.data import folders, load_dataset
folders._WAVE = 10
def stop(done, total):
    if done >= 50:
        os.kill(os.getpid(), signal.SIGKILL)
load_dataset(sys.argv[1], (8, 8, 1), cache=Path(sys.argv[2]), progress=stop)
"""


def test_killed_while_decoding_no_half_cache_is_left(root: Path, cache: Path) -> None:
    fill(root / "cat", 100)
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(cache)], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert list(cache.glob(".*.part")) and not [path for path in cache.iterdir() if path.name.isalnum()]
    data = load_dataset(root, SHAPE, cache=cache)
    assert len(data) == 105 and data.x[-1, 0, 0, 0] == 104
    assert not list(cache.glob(".*.part"))


def test_two_at_once_decode_once(root: Path, cache: Path) -> None:
    calls: list[int] = []

    def load(_: int) -> Dataset:
        return load_dataset(root, SHAPE, cache=cache, progress=lambda done, total: calls.append(done))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(load, range(4)))
    assert calls == [11] and len({data.folder for data in found}) == 1


def test_files_of_equal_content_are_said(root: Path, cache: Path) -> None:
    Image.new("L", (8, 8), 100).save(root / "cat" / "again.png")
    assert load_dataset(root, SHAPE, cache=cache).notes == (
        "Files with the same bytes as another: 1. Two splits may share an image.",
    )


def test_images_of_12_bits_stored_in_16_are_said(root: Path, cache: Path) -> None:
    for number in range(3):
        Image.fromarray(np.full((8, 8), 1300 * (number + 1), np.uint16)).save(root / "dog" / f"deep{number}.png")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(root / "dog" / "full.png")
    (note,) = load_dataset(root, SHAPE, cache=cache).notes
    assert note.startswith(
        "Images with 16 bits or more of which less than a quarter is used, such as dog/deep0.png: 3. "
    )


def test_a_damaged_cache_is_made_again(root: Path, cache: Path) -> None:
    data = load_dataset(root, SHAPE, cache=cache)
    (data.folder / "pixels.u8").write_bytes(b"short")
    assert load_dataset(root, SHAPE, cache=cache).x[-1, 0, 0, 0] == 104
    (data.folder / "about.json").write_text("{")
    assert load_dataset(root, SHAPE, cache=cache).labels == ("cat", "dog")


def test_a_cache_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        load_dataset(root, SHAPE, cache=tmp_path / "file")


def test_the_module_is_light() -> None:
    code = "import sys, edgenas.evaluation.data; print({'tensorflow', 'keras', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
