"""A bundle is read only as it was written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle
from edgenas.errors import CheckFailedError, InputError


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


def _edit(folder: Path, change: Callable[[dict[str, object]], None], seal: bool) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    del content["checksum"]
    change(content)
    content["checksum"] = files.sha256(files.canonical_json(content).encode()) if seal else "0" * 64
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_copy_is_the_same_bundle(bundle: Bundle, copy: Path) -> None:
    assert Bundle.load(copy).manifest == bundle.manifest


@pytest.mark.parametrize("name", ["model.tflite", "labels.txt", "samples.npz"])
def test_a_changed_file_is_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CheckFailedError, match=f"{name} is not the file that was written: expected sha256"):
        Bundle.load(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "model.tflite").unlink()
    with pytest.raises(CheckFailedError, match=r"model\.tflite is missing"):
        Bundle.load(copy)


def test_a_changed_manifest_is_refused(copy: Path) -> None:
    _edit(copy, lambda content: content.update(epochs=500), seal=False)
    with pytest.raises(CheckFailedError, match="was changed after it was written"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(format=9), "has format 9, expected 2"),
        (lambda content: content.update(epoch=1), "unknown key 'epoch'.*'epochs'"),
        (lambda content: content.pop("recipe"), "'recipe' is missing"),
        (lambda content: content["files"].update({"../x": "0"}), "expected the files"),
        (lambda content: content["architecture"].update(classes=11), "names 10 classes, the model has 11"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    copy: Path, change: Callable[[dict[str, object]], None], words: str
) -> None:
    _edit(copy, change, seal=True)
    with pytest.raises(InputError, match=words):
        Bundle.load(copy)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no bundle: it has no manifest\.json"):
        Bundle.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        Bundle.load(tmp_path)
