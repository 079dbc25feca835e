"""No size that somebody else's file names is believed: it is checked before anything is read, unpacked or made."""

import io
import json
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, samples
from edgenas.deploy.bundle import unpack
from edgenas.errors import InputError

MB = 1 << 20


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


@contextmanager
def at_most(size_bytes: int) -> Iterator[None]:
    """Python and NumPy take no more memory meanwhile."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= size_bytes
    finally:
        tracemalloc.stop()


def forge(folder: Path, name: str, content: bytes) -> Path:
    """A file in the place of a bundle's own, the manifest's hash and checksum made right."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["files"][name] = files.sha256(content)
    manifest["checksum"] = files.sha256(files.canonical_json(manifest).encode())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def array(dtype: str, shape: object, data: bytes = b"") -> bytes:
    """A `.npy` file that says so, whatever it holds."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def archive(**arrays: bytes) -> bytes:
    """A `.npz` file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in arrays.items():
            zipped.writestr(f"{name}.npy", data)
    return content.getvalue()


GOOD = {
    "images": array("|u1", (1, 8, 8, 1), bytes(64)),
    "labels": array("<i8", (1,), bytes(8)),
    "outputs": array("|u1", (1, 10), bytes(10)),
}
MANY = 1 << 33
FITTING = {  # with each other and the manifest; 550 GB
    "images": array("|u1", (MANY, 8, 8, 1)), "labels": array("<i8", (MANY,)), "outputs": array("|u1", (MANY, 10)),
}  # fmt: skip


def test_samples_that_fit_are_read(copy: Path) -> None:
    found = Bundle.load(forge(copy, "samples.npz", archive(**GOOD))).samples
    assert found is not None and found.images.shape == (1, 8, 8, 1) and found.float_outputs is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            GOOD | {"images": array("|u1", (MANY, 8, 8, 1))},
            r"do not fit the model: .*received images uint8 \[85899",
        ),
        (GOOD | {"outputs": array("<f4", (1, 10))}, r"expected .*outputs uint8 \[1, 10\].*received .*outputs float32"),
        (GOOD | {"labels": array("<f8", (1,))}, "labels float64"),
        (GOOD | {"images": array("|u1", (1, 8, MANY, 1))}, "do not fit the model"),
        (GOOD | {"outputs": array("|u1", (1, MANY))}, "do not fit the model"),
        (GOOD | {"float_outputs": array("<f4", (MANY, 10))}, "do not fit the model"),
        (GOOD | {"labels": array("<i8", ())}, "do not fit the model"),
        ({name: data.replace(b"(1,", b"(0,") for name, data in GOOD.items()}, "do not fit the model"),
        (FITTING, r"are \d+ MB of arrays, at most 512 MB are read"),
        (GOOD | {"images": array("|O", (1, 8, 8, 1))}, "do not fit the model"),
        (GOOD | {"more": array("|u1", (MANY,))}, "expected images, labels, outputs .*received .*more"),
        ({"labels": GOOD["labels"]}, "expected images, labels, outputs"),
        (GOOD | {"images": array("|u1", (1, 8, 8, 1), b"short")}, "cannot be read"),
        (GOOD | {"images": b"no array"}, "cannot be read"),
        (GOOD | {"images": array("|u1", "-" * 900 + "1")}, "The header of images.npy cannot be read"),
        (GOOD | {"images": array("|u1", "(" * 9000)}, "The header of images.npy cannot be read"),
        (GOOD | {"images": array("|u1", (-1, 8, 8, 1))}, "do not fit the model"),
    ],
)
def test_samples_are_read_only_as_their_manifest_says(copy: Path, arrays: dict[str, bytes], words: str) -> None:
    found = Bundle.load(forge(copy, "samples.npz", archive(**arrays)))
    with at_most(8 * MB), pytest.raises(InputError, match=words):
        found.samples  # noqa: B018


def test_a_header_of_any_size_is_not_read(copy: Path) -> None:
    """Blanks take a thousandth of that in the archive."""
    head = b"\x93NUMPY\x02\x00" + struct.pack("<I", 30 * MB) + b" " * 30 * MB
    found = Bundle.load(forge(copy, "samples.npz", archive(**GOOD | {"images": head})))
    with at_most(8 * MB), pytest.raises(InputError, match=r"images\.npy is an array of another version"):
        found.samples  # noqa: B018


def test_samples_of_a_large_network_are_bounded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its manifest says may be anything, too."""
    monkeypatch.setattr(samples, "LARGEST_BYTES", 81)  # of 64 + 8 + 10
    found = Bundle.load(forge(copy, "samples.npz", archive(**GOOD)))
    with pytest.raises(InputError, match="MB of arrays, at most"):
        found.samples  # noqa: B018


def packed(path: Path, name: str, content: bytes) -> Path:
    """A packed bundle of one file, compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(name, content)
    return path


def test_a_packed_file_unpacks_to_no_more_than_it_says(tmp_path: Path) -> None:
    """Its directory says 10 bytes; the stream goes on for 200 MB."""
    path = packed(tmp_path / "b.edgenas", "model.tflite", bytes(200 * MB))
    content = bytearray(path.read_bytes())
    assert len(content) < MB
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 10)
    struct.pack_into("<I", content, entry + 16, zlib.crc32(bytes(10)))
    path.write_bytes(content)
    with at_most(8 * MB):
        unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "model.tflite").stat().st_size == 10


@pytest.mark.parametrize("size_mb", [1, 50])
def test_what_is_unpacked_is_never_whole_in_memory(tmp_path: Path, size_mb: int) -> None:
    path = packed(tmp_path / "b.edgenas", "model.tflite", bytes(size_mb * MB))
    with at_most(8 * MB):
        unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "model.tflite").stat().st_size == size_mb * MB


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "labels.txt"])
def test_texts_of_any_size_are_not_unpacked(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / "b.edgenas", name, b"[" * (5 * MB))
    with at_most(8 * MB), pytest.raises(InputError, match=rf"is no bundle: its {name} is larger than 4 MB"):
        Bundle.load(path)
    assert [found.name for found in tmp_path.iterdir() if found.name != ".edgenas"] == ["b.edgenas"]


@pytest.mark.parametrize("name", ["manifest.json", "labels.txt", "manifest.sig"])
def test_texts_of_any_size_are_not_read(copy: Path, name: str) -> None:
    content = b"[" * (30 * MB)
    if name == "labels.txt":
        forge(copy, name, content)
    else:
        (copy / name).write_bytes(content)
    del content
    with at_most(16 * MB), pytest.raises(InputError, match=rf"{name} cannot be read.*larger than 4096 kB"):
        Bundle.load(copy)


def test_a_directory_of_any_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "b.edgenas"
    size = 40 * MB
    path.write_bytes(bytes(size) + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, size, 0, 0))
    with at_most(8 * MB), pytest.raises(InputError, match="its directory has more than 1024 kB"):
        Bundle.load(path)


def _unsigned(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_unsigned, Path.mkdir, lambda path: path.write_text("{")])
def test_a_signature_that_cannot_be_read_is_not_none(copy: Path, make: Callable[[Path], Any]) -> None:
    """It would be shipped as a bundle that nobody signed."""
    make(copy / "manifest.sig")
    with pytest.raises(InputError, match=r"The signature .*manifest\.sig cannot be read"):
        Bundle.load(copy)


def test_written_samples_are_read_again(bundle: Bundle, tmp_path: Path) -> None:
    found = bundle.samples
    assert found is not None
    both = samples.Samples(found.images, found.labels, found.outputs, found.outputs.astype(np.float32))
    both.write(tmp_path / "samples.npz")
    again = samples.read_samples(tmp_path / "samples.npz", bundle.manifest)
    for name in ("images", "labels", "outputs", "float_outputs"):
        assert np.array_equal(getattr(again, name), getattr(both, name))
        assert getattr(again, name).dtype == getattr(both, name).dtype
