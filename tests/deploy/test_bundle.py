"""A bundle is read only as it was written."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import edgenas.files as files
from edgenas.cli.main import cli
from edgenas.deploy import Bundle
from edgenas.deploy.bundle import sign
from edgenas.deploy.keys import SigningKey
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
        (lambda content: content.update(format=9), "has format 9, expected 4"),
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


def test_packed_it_is_the_same_bundle(
    bundle: Bundle, tmp_path: Path, keys: Callable[..., SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "b"))
    packed = Bundle.load(folder).pack(tmp_path / "b.edgenas")
    assert packed.read_bytes() == Bundle.load(folder).pack(tmp_path / "c.edgenas").read_bytes()
    loaded = Bundle.load(packed)
    assert loaded.manifest == bundle.manifest
    assert loaded.model_path.read_bytes() == bundle.model_path.read_bytes()
    assert Bundle.load(packed).folder == loaded.folder, "unpacked once"
    signed = sign(folder, keys())
    assert signed.manifest.release > bundle.manifest.release
    assert signed.signed_by is not None
    assert Bundle.load(packed).signed_by == signed.signed_by, "the packed one beside it follows"
    again = sign(packed, SigningKey.load())
    assert again.manifest.release > signed.manifest.release
    with pytest.raises(InputError, match=r"is called NAME\.edgenas"):
        signed.pack(tmp_path / "b.zip")


def test_a_packed_file_that_is_no_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "b.edgenas"
    path.write_text("no zip")
    with pytest.raises(InputError, match="cannot be read"):
        Bundle.load(path)
    for name in ("../model.tflite", "/etc/passwd", "more.txt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
        with pytest.raises(InputError, match="it holds"):
            Bundle.load(path)
    assert not (tmp_path / ".edgenas" / "model.tflite").exists()
    monkeypatch.setattr("edgenas.deploy.bundle.LARGEST_BYTES", 1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.tflite", bytes((1 << 20) + 1))
    with pytest.raises(InputError, match="unpacks to more than 1 MB"):
        Bundle.load(path)


def test_a_bundle_gets_a_new_number_with_a_key_or_without_any(
    bundle: Bundle, tmp_path: Path, keys: Callable[..., SigningKey]
) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "b"))

    def signs(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli, ["sign", str(folder), "--json", *words], catch_exceptions=False)
        return dict(json.loads(done.stdout))

    for after in (0, 99990101000000):  # a device that has had that one takes nothing that a clock gives
        said = signs("--after", str(after))
        assert said["release"] > max(after, bundle.manifest.release) and said["signed_by"] is None
    assert said["release"] == 99990101000001
    assert "not signed: you have no key" in CliRunner().invoke(cli, ["sign", str(folder)]).stdout
    with pytest.raises(InputError, match="There is no key 'mine'"):
        signs("--key", "mine")
    other = keys("other")
    with pytest.raises(InputError, match="There is no key 'default'"):
        signs()
    assert signs("--key", "other")["signed_by"] == other.public.id
    assert signs("--key", "other")["release"] == 99990101000004
