"""A bundle is read only as it was written."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner

import edgenas.files as files
from edgenas.cli.main import cli
from edgenas.deploy import Bundle
from edgenas.deploy.bundle import sign, unpack
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
    _edit(copy, lambda content: content.update(steps=500), seal=False)
    with pytest.raises(CheckFailedError, match="was changed after it was written"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(format=9), "has format 9, expected 6"),
        (lambda content: content.update(format=5), "has format 5, expected 6"),  # with epochs in the place of steps
        (lambda content: content.update(step=1), "unknown key 'step'.*'steps'"),
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


def test_a_number_that_is_none_in_a_manifest_is_named(copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"steps": 300', '"steps": NaN'))
    with pytest.raises(InputError, match=r"cannot be read: 'NaN' is no finite number"):
        Bundle.load(copy)


def test_labels_that_are_no_text_are_named(copy: Path) -> None:
    (copy / "labels.txt").write_bytes(b"\xff\n" * 10)
    _edit(copy, lambda content: content["files"].update({"labels.txt": files.sha256(copy / "labels.txt")}), seal=True)
    with pytest.raises(InputError, match=r"labels .*labels\.txt cannot be read: .*utf-8"):
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
    path = tmp_path / "b.edgenas"
    path.write_text("no zip")
    with pytest.raises(InputError, match="cannot be read"):
        Bundle.load(path)
    up = [f"{'../' * levels}model.tflite" for levels in range(1, 5)]  # from the folder it would be unpacked in, and out
    for name in (*up, str(tmp_path / "model.tflite"), "more.txt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
        with pytest.raises(InputError, match="it holds"):
            Bundle.load(path)
        assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path], "nothing is written anywhere"
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


def test_another_process_may_unpack_it_first(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = bundle.pack(tmp_path / "b.edgenas")
    folder = Bundle.load(packed).folder
    shutil.rmtree(folder)
    with monkeypatch.context() as before:  # just before
        before.setattr("edgenas.deploy.bundle.unpack", lambda path, to: unpack(path, unpack(path, to)))
        assert Bundle.load(packed).manifest == bundle.manifest
    shutil.rmtree(folder)
    read, others = zipfile.ZipFile.open, []

    def read_slowly(archive: zipfile.ZipFile, info: Any, *more: Any, **named: Any) -> IO[bytes]:  # meanwhile
        if not others:
            others.append(info)
            unpack(packed, folder)
        return read(archive, info, *more, **named)

    monkeypatch.setattr(zipfile.ZipFile, "open", read_slowly)
    assert Bundle.load(packed).manifest == bundle.manifest
    assert others and [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left beside it"


@pytest.mark.parametrize("damage", ["model.tflite", "manifest.json", None])
def test_a_damaged_copy_is_unpacked_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str | None
) -> None:
    packed = bundle.pack(tmp_path / "b.edgenas")
    folder = Bundle.load(packed).folder
    if damage is None:
        (folder / "labels.txt").unlink()
    else:
        (folder / damage).write_bytes(b"torn")
    assert Bundle.load(packed).manifest == bundle.manifest
    assert (folder / "model.tflite").read_bytes() == bundle.model_path.read_bytes()


def test_a_broken_stream_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.edgenas"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bundle.folder / "model.tflite", "model.tflite")
    content = bytearray(path.read_bytes())
    content[50:90] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        Bundle.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("model.tflite", "x")
    with pytest.raises(InputError, match="compressed in a way"):
        Bundle.load(path)
    assert not list((tmp_path / ".edgenas" / "bundles").iterdir())
