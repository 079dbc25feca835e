"""What cannot be read is not taken for absent, nor what leads elsewhere for a release: the device refuses."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.device import Agent, Connection
from edgenas.errors import CheckFailedError, DeviceError, EdgeNASError, InputError
from tests.device.test_releases import digest, files_of, send, ship


def _unlistable(path: Path, patch: pytest.MonkeyPatch) -> None:
    """As a folder of another user: root, who runs tests, can list anything."""
    path.mkdir()
    really = Path.iterdir

    def iterdir(folder: Path) -> object:
        if folder.name == path.name:
            raise PermissionError(13, "Permission denied", str(folder))
        return really(folder)

    patch.setattr(Path, "iterdir", iterdir)


def _file(path: Path, patch: pytest.MonkeyPatch) -> None:
    path.write_text("")


def _dangling(path: Path, patch: pytest.MonkeyPatch) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path, patch: pytest.MonkeyPatch) -> None:
    path.symlink_to(path.name)


def _with_a_folder_for_a_key(path: Path, patch: pytest.MonkeyPatch) -> None:
    (path / f"{'a' * 16}.pub").mkdir(parents=True)


def _with_a_dangling_key(path: Path, patch: pytest.MonkeyPatch) -> None:
    path.mkdir()
    (path / f"{'a' * 16}.pub").symlink_to("nowhere")


def _with_another_key(path: Path, patch: pytest.MonkeyPatch) -> None:
    path.mkdir()
    (path / f"{'a' * 16}.pub").write_text("0" * 64)


Makes = Callable[[Path, pytest.MonkeyPatch], None]
NO_FOLDERS: list[Makes] = [_unlistable, _file, _dangling, _loop]


@pytest.mark.parametrize("make", [*NO_FOLDERS, _with_a_folder_for_a_key, _with_a_dangling_key, _with_another_key])
def test_keys_that_cannot_be_read_close_the_device(
    here: Agent, local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Makes
):
    ship(here, local, tmp_path, 10, "one")  # it trusts no key yet
    make(Path(local.folder, "trusted_keys"), monkeypatch)
    what = "is not the key it is named after"
    if make is not _with_another_key:
        what = r"cannot be read \(.+\), so it takes nothing\. Make .*trusted_keys a folder .*edgenas key trust"
    with pytest.raises(InputError, match=what):
        ship(here, local, tmp_path, 20, "two")
    for op, params in (
        ("verify", {"name": "net"}), ("list_keys", {}), ("trust_key", {"key": "0" * 64}),
        ("distrust_key", {"key": "a" * 16, "last": True}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=what):
            here.call(op, **params)
    assert Path(local.folder, "models/net/current").readlink().name == "10"


def test_no_folder_and_an_empty_one_trust_nobody(here: Agent, local: Connection, tmp_path: Path):
    """So do files that are no keys, and the beginning of one that was cut."""
    folder = Path(local.folder, "trusted_keys")
    assert here.call("list_keys") == {"trusted": []}
    folder.mkdir()
    assert here.call("list_keys") == {"trusted": []}
    (folder / "README").write_text("x")
    (folder / f".{'a' * 16}.new").write_text("x")
    assert here.call("list_keys") == {"trusted": []}
    assert ship(here, local, tmp_path, 10, "one") == 10


@pytest.mark.parametrize("make", [_dangling, _loop, lambda path, patch: path.mkdir()])
def test_a_history_that_cannot_be_read_lets_no_replay_in(
    here: Agent, local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Makes
):
    for release in (10, 20):
        ship(here, local, tmp_path, release, f"of {release}")
    model = Path(local.folder, "models/net")
    (model / "history.jsonl").unlink()
    (model / "current").unlink()
    make(model / "history.jsonl", monkeypatch)
    with pytest.raises(DeviceError, match=r"history\.jsonl"):
        ship(here, local, tmp_path, 10, "of 10")
    assert not (model / "current").exists() and not (model / "nowhere").exists()


@pytest.mark.parametrize("make", NO_FOLDERS)
@pytest.mark.parametrize("folder", ["models", "models/net/releases", "blobs"])
def test_folders_that_cannot_be_listed_are_not_empty(
    here: Agent, local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, make: Makes
):
    ship(here, local, tmp_path, 10, "one")
    Path(local.folder, folder).rename(Path(local.folder, "aside"))
    make(Path(local.folder, folder), monkeypatch)
    op, params = {
        "models": ("deployed", {}),
        "models/net/releases": ("rollback", {"name": "net"}),
        "blobs": ("prepare", {"name": "net", "release": 20, "files": {}}),
    }[folder]
    with pytest.raises(EdgeNASError, match=f"{Path(folder).name}|is no link to one of its releases"):
        here.call(op, **params)


def _elsewhere(model: Path) -> None:
    """The same number, the same files: but not below this model."""
    outside = model.parents[2] / "outside"
    (model / "releases").rename(outside)
    (model / "releases" / "10").mkdir(parents=True)
    _leads_to(model, str(outside / "10"))


def _leads_to(model: Path, where: str) -> None:
    (model / "current").unlink()
    (model / "current").symlink_to(where)


def _releases_are_a_link(model: Path) -> None:
    (model / "releases").rename(model.parents[2] / "outside")
    (model / "releases").symlink_to(model.parents[2] / "outside")


def _release_is_a_link(model: Path) -> None:
    (model / "releases" / "10").rename(model.parents[2] / "outside")
    (model / "releases" / "10").symlink_to(model.parents[2] / "outside")


def _folder(model: Path) -> None:
    (model / "current").unlink()
    (model / "releases" / "10").rename(model / "current")


@pytest.mark.parametrize(
    "change",
    [
        _elsewhere, _releases_are_a_link, _release_is_a_link, _folder,
        lambda model: _leads_to(model, "../other/releases/10"), lambda model: _leads_to(model, "releases/../10"),
        lambda model: _leads_to(model, "releases/010"), lambda model: _leads_to(model, "releases"),
        lambda model: _leads_to(model, "current"),
    ],
)  # fmt: skip
def test_a_live_link_that_leads_out_of_the_releases_is_not_whole(
    here: Agent, local: Connection, tmp_path: Path, change: Callable[[Path], None]
):
    ship(here, local, tmp_path, 10, "one")
    ship(here, local, tmp_path, 10, "one", name="other")
    model = Path(local.folder, "models/net")
    change(model)
    for op in ("verify", "rollback"):
        with pytest.raises(CheckFailedError, match=r"current is no link to one of its releases .*Remove it there"):
            here.call(op, name="net")
    bad, good = here.call("deployed")
    assert (bad["name"], bad["release"], good["name"], good["release"]) == ("net", None, "other", 10)
    assert "is no link to one of its releases" in bad["wrong"]
    assert here.call("verify", name="other")["release"] == 10


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["model.tflite", "labels.txt", "manifest.json", "manifest.sig"])
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("../20/other"), Path.mkdir, _fifo])
def test_what_is_no_file_of_its_own_is_no_part_of_a_release(
    here: Agent, local: Connection, tmp_path: Path, name: str, make: Callable[[Path], None]
):
    """A pipe in the place of a file would be waited for for ever."""
    ship(here, local, tmp_path, 10, "one")
    path = Path(local.folder, "models/net/releases/10", name)
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(CheckFailedError, match=f"'{name}' in release 10 is no file of its own"):
        here.call("verify", name="net")


def test_a_manifest_of_any_size_is_not_read(here: Agent, local: Connection, tmp_path: Path):
    files = files_of(10, "one")
    files["manifest.json"] += b" " * (4 << 20)
    with pytest.raises(CheckFailedError, match=r"manifest\.json of release 10 has 4194\d+ bytes"):
        send(here, local, tmp_path, "net", 10, files)
    assert digest(b"one") in {path.name for path in Path(local.folder, "blobs").iterdir()}


def test_a_model_of_which_nothing_is_live_is_not_listed(here: Agent, local: Connection, tmp_path: Path):
    ship(here, local, tmp_path, 10, "one")
    Path(local.folder, "models", "begun").mkdir()
    assert [shown["name"] for shown in here.call("deployed")] == ["net"]
