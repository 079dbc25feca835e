"""What a device refuses: one line that names the cause, the old release live, nothing left behind."""

import contextlib
import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, deployed, rollback, ship
from edgenas.deploy.bundle import sign
from edgenas.deploy.keys import (
    PublicKey,
    SigningKey,
    create_key,
    default_key,
    distrust_key,
    key_names,
    trust_key,
    trusted_keys,
)
from edgenas.device import Device
from edgenas.errors import CheckFailedError, DeviceError, EdgeNASError, InputError
from tests.deploy.inside import Inside

Rewritten = Callable[..., Bundle]
Keys = Callable[..., SigningKey]


@dataclasses.dataclass
class Guarded:
    """A device that trusts one key, with one release live."""

    device: Device
    key: SigningKey
    live: int

    def refuses(self, kind: type[EdgeNASError], words: str, bundle: Bundle) -> None:
        """Shipping `bundle` is refused with one line; afterwards all is as it was."""
        before = self.tree()
        with pytest.raises(kind, match=words) as caught:
            ship(bundle, self.device, "digits")
        assert "\n" not in str(caught.value)
        assert self.tree() == before
        (found,) = deployed(self.device)
        assert found.release == self.live

    def tree(self) -> dict[str, str]:
        """Everything in the work folder but agents: what a file holds, where a link points, that a folder is there."""
        work = Path(self.device.folder)
        found = {}
        for path in sorted(work.rglob("*")):
            name = str(path.relative_to(work))
            if path.is_symlink():
                found[name] = f"link to {path.readlink()}"
            elif not name.startswith("agents"):
                found[name] = files.sha256(path) if path.is_file() else "folder"
        return found


@pytest.fixture
def guarded(inside: Inside, local: Device, bundle: Bundle, rewritten: Rewritten, keys: Keys, tmp_path: Path) -> Guarded:
    key = keys()
    assert trust_key(local, key.public) == [key.public.id]
    first = rewritten(bundle, tmp_path, key)
    shipped = ship(first, local, "digits")
    assert next(check for check in shipped.checks if check.name == "signature").passed
    return Guarded(local, key, first.manifest.release)


def test_a_tampered_model(guarded: Guarded, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    newer = rewritten(bundle, tmp_path, guarded.key)
    newer.model_path.write_bytes(newer.model_path.read_bytes() + b"x")
    guarded.refuses(CheckFailedError, r"model\.tflite: expected sha256", newer)
    with pytest.raises(CheckFailedError, match="is not the file that was written"):
        Bundle.load(newer.folder)


def test_a_tampered_manifest(guarded: Guarded, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    """Its checksum made right again: only the signature can tell."""
    newer = rewritten(bundle, tmp_path, guarded.key)
    path = newer.folder / "manifest.json"
    content = json.loads(path.read_text())
    content["accuracy"]["test"] = 0.999
    del content["checksum"]
    content["checksum"] = files.sha256(files.canonical_json(content).encode())
    path.write_text(json.dumps(content))
    tampered = Bundle.load(newer.folder)
    guarded.refuses(CheckFailedError, rf"the signature of manifest\.json by the key {guarded.key.public.id} is wrong",
                    tampered)  # fmt: skip


def test_a_wrong_signature_and_none(
    guarded: Guarded, bundle: Bundle, rewritten: Rewritten, keys: Keys, tmp_path: Path
) -> None:
    stranger = keys("stranger")
    guarded.refuses(
        CheckFailedError,
        f"signed by the key '{stranger.public.id}', and this device trusts only {guarded.key.public.id}",
        rewritten(bundle, tmp_path, stranger),
    )
    guarded.refuses(CheckFailedError, "the bundle is not signed", rewritten(bundle, tmp_path))
    forged = rewritten(bundle, tmp_path, stranger)
    signature = json.loads((forged.folder / "manifest.sig").read_text()) | {"key": guarded.key.public.id}
    (forged.folder / "manifest.sig").write_text(json.dumps(signature))
    guarded.refuses(CheckFailedError, "the signature of .* is wrong", Bundle.load(forged.folder))
    for nonsense in ("{", "[]", '{"key": 1}', json.dumps(signature | {"signature": "%%"})):
        (forged.folder / "manifest.sig").write_text(nonsense)
        guarded.refuses(CheckFailedError, r"manifest\.sig cannot be read|is signed by the key '1'", Bundle(
            forged.folder, forged.manifest))  # fmt: skip


def test_a_replayed_older_release(guarded: Guarded, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    was_live = Bundle.load(next(tmp_path.glob("again-*")))
    newest = rewritten(bundle, tmp_path, guarded.key)
    old = Bundle.load(Path(shutil.copytree(rewritten(bundle, tmp_path, guarded.key, release=guarded.live - 1).folder,
                                           tmp_path / "old")))  # fmt: skip
    first = guarded.live
    assert was_live.manifest.release == first
    ship(newest, guarded.device, "digits")
    guarded.live = newest.manifest.release
    guarded.refuses(CheckFailedError, rf"release {first - 1} of digits is older than release {guarded.live}", old)
    guarded.refuses(CheckFailedError, rf"release {first} of digits is older than release {guarded.live}", was_live)
    assert rollback(guarded.device, "digits", to=first).active == first
    guarded.live = first
    guarded.refuses(CheckFailedError, "is older than release", old)
    again = sign(was_live.folder, guarded.key, newest.manifest.release)
    assert again.manifest.release > newest.manifest.release
    assert ship(again, guarded.device, "digits").active == again.manifest.release, "its number is a new one"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "work"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("needs root, to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(
    full_disk: Path, guarded: Guarded, big_bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    newer = rewritten(big_bundle, tmp_path, guarded.key)
    (full_disk / "filler").write_bytes(bytes(1_500_000))
    guarded.refuses(CheckFailedError, r"1\.\d MB are needed and 1 MB to spare; the device has .* MB free", newer)


def test_a_disk_that_fills_up_meanwhile(
    full_disk: Path, guarded: Guarded, big_bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """There was room when it was asked for; somebody else took it."""
    newer = rewritten(big_bundle, tmp_path, guarded.key)
    before = guarded.tree()

    def fill(what: str, done: int, total: int) -> None:
        if what == "sending model.tflite" and not (full_disk / "filler").exists():
            with contextlib.suppress(OSError), (full_disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))

    with pytest.raises(DeviceError, match=r"No space left on device.*The old model is still live") as caught:
        ship(newer, guarded.device, "digits", progress=fill)
    assert "\n" not in str(caught.value)
    (full_disk / "filler").unlink()
    assert guarded.tree() == before
    assert ship(newer, guarded.device, "digits").active == newer.manifest.release


def test_a_read_only_folder(guarded: Guarded, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    folder = guarded.device.folder
    newer = rewritten(bundle, tmp_path, guarded.key)
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("needs root, to make a folder read-only")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        guarded.refuses(DeviceError, "Read-only file system", newer)
    finally:
        subprocess.run(["umount", folder], check=True)
    shipped = ship(newer, guarded.device, "digits")
    assert shipped.active == newer.manifest.release


def test_keys_are_made_once_kept_private_and_taken_back(guarded: Guarded, keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "config" / "edgenas" / "keys"
    assert (folder / "default.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="There is a key 'default' already"):
        create_key()
    public = PublicKey.load(str(folder / "default.pub"))
    assert public == guarded.key.public
    assert "PRIVATE" not in repr(guarded.key) and guarded.key.public.line.startswith("edgenas-ed25519 ")
    with pytest.raises(InputError, match="is not among the keys trusted here"):
        distrust_key(guarded.device, "0" * 16)
    second = keys("second")
    assert set(trust_key(guarded.device, second.public)) == {public.id, second.public.id}
    assert distrust_key(guarded.device, public.id) == [second.public.id] == trusted_keys(guarded.device)
    with pytest.raises(CheckFailedError, match=rf"{second.public.id} is the only key that is trusted here.*--last"):
        distrust_key(guarded.device, second.public.id)
    assert trusted_keys(guarded.device) == [second.public.id], "it does not open by mistake"
    live = Bundle.load(next(tmp_path.glob("again-*")))
    with pytest.raises(CheckFailedError, match=f"this device trusts only {second.public.id}"):
        ship(live, guarded.device, "digits")
    assert distrust_key(guarded.device, second.public.id, last=True) == []
    assert ship(live, guarded.device, "digits").active == live.manifest.release
    (folder / "default.pem").chmod(0o644)
    with pytest.raises(InputError, match="Others can read the private key"):
        SigningKey.load()
    with pytest.raises(InputError, match="There is no key 'nobody'"):
        SigningKey.load("nobody")


def test_a_key_whose_making_was_cut_is_made_by_the_same_call(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "config" / "edgenas" / "keys"

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as early, pytest.raises(KeyboardInterrupt):
        early.setattr("edgenas.deploy.keys.os.fsync", cut)
        create_key()
    assert not list(folder.iterdir()), "no half of a private key"
    with monkeypatch.context() as late, pytest.raises(KeyboardInterrupt):
        late.setattr(files, "write_atomically", cut)
        create_key()
    made = (folder / "default.pem").read_bytes()
    assert [path.name for path in folder.iterdir()] == ["default.pem"]
    public = create_key()
    assert (folder / "default.pem").read_bytes() == made, "a key is never overwritten"
    assert SigningKey.load().public == public == PublicKey.load("default")
    with pytest.raises(InputError, match="There is a key 'default' already"):
        create_key()


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [Path.touch, _dangling])
def test_keys_of_ours_that_cannot_be_read_are_not_none(
    keys: Keys, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """What is signed otherwise would go out unsigned."""
    assert default_key() is None
    public = keys().public
    found = default_key()
    assert found is not None and (key_names(), found.public) == (["default"], public)
    folder = tmp_path / "config" / "edgenas" / "keys"
    folder.rename(tmp_path / "aside")
    make(folder)
    for ask in (key_names, default_key):
        with pytest.raises(InputError, match=r"Your keys in .*keys cannot be read: .*Make it a folder of yours"):
            ask()
