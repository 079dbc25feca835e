"""What lasts through a power cut: what is written is on the disk before anything names it. And a disk without room."""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.device import Agent, Connection
from edgenas.device.agent import machine, releases, signatures, store, switching
from edgenas.device.agent.context import Context, OperationError
from edgenas.errors import CheckFailedError, WentBackError
from tests.device.test_releases import digest, files_of, live, send, ship

NET = "models/net"


@pytest.fixture
def connection(local: Connection) -> Connection:
    return local


@pytest.fixture
def agent(here: Agent) -> Agent:
    return here


class Disk:
    """What is done to the files below a folder, in order, and what of it fails.

    Attributes:
        did: "sync PATH", "PATH -> PATH" for a rename, "remove PATH", "make PATH" for a folder; paths below the folder.
        failing: what is to fail from now on: it is not done.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.did: list[str] = []
        self.failing: set[str] = set()
        for name, say in {
            "fsync": lambda number: f"sync {self._name(os.readlink(f'/proc/self/fd/{number}'))}",  # noqa: PTH115
            "rename": lambda source, target: f"{self._name(source)} -> {self._name(target)}",
            "replace": lambda source, target: f"{self._name(source)} -> {self._name(target)}",
            "mkdir": lambda path, *_: f"make {self._name(path)}",
            "unlink": lambda path, **_: f"remove {self._name(path)}",
        }.items():
            monkeypatch.setattr(os, name, self._watched(getattr(os, name), say))

    def _watched(self, work: Callable[..., Any], say: Callable[..., str]) -> Callable[..., Any]:
        def watched(*arguments: Any, **more: Any) -> Any:
            done = say(*arguments, **more)
            if done in self.failing:
                raise OSError(errno.EIO, "Input/output error")
            result = work(*arguments, **more)
            self.did.append(done)
            return result

        return watched

    def _name(self, path: Any) -> str:
        folder = str(self._folder)
        name = os.path.relpath(path, folder) if str(path).startswith(folder) else str(path)
        return ".staging" + name.partition(".staging-")[2].lstrip("0123456789-") if ".staging-" in name else name

    def since(self, what: str) -> list[str]:
        """What was done from the last time that this was done."""
        last = len(self.did) - 1 - self.did[::-1].index(what)
        return self.did[last:]


@pytest.fixture
def disk(local: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    yield Disk(Path(local.folder), monkeypatch)


def _activate(agent: Agent, connection: Connection, tmp_path: Path, release: int) -> None:
    staged = send(agent, connection, tmp_path, "net", release, files_of(release, f"of {release}"))["folder"]
    agent.call("activate", name="net", release=release, folder=staged, record={})


def test_a_release_is_on_the_disk_before_it_is_live(agent: Agent, connection: Connection, tmp_path: Path, disk: Disk):
    for release in (10, 20):
        disk.did.clear()
        _activate(agent, connection, tmp_path, release)
        new = [f"make {NET}/releases", f"sync {NET}"] if release == 10 else []
        begun = disk.did.index(f".staging/release -> {NET}/releases/{release}")
        staged, switched = disk.did[:begun], disk.did[begun:]
        files = {f"sync .staging/release/{name}" for name in ("labels.txt", "manifest.json", "model.tflite")}
        before = 3 + 1 + len(new)
        assert set(staged[-before:][:3]) == files
        assert staged[-before:][3:] == ["sync .staging/release", *new]
        history = [f"sync {NET}/history.jsonl", *([f"sync {NET}"] if release == 10 else [])]
        assert switched[: 4 + len(history)] == [
            f".staging/release -> {NET}/releases/{release}", f"sync {NET}/releases",
            f"{NET}/.current-new -> {NET}/current", f"sync {NET}", *history,
        ]  # fmt: skip
        assert "sync" not in "".join(switched[4 + len(history) :])


def test_the_folders_of_a_model_last_before_anything_lies_in_them(
    agent: Agent, connection: Connection, tmp_path: Path, disk: Disk
):
    send(agent, connection, tmp_path, "net", 10, files_of(10, "one"))
    (made,) = [number for number, did in enumerate(disk.did) if did == f"make {NET}"]
    assert disk.did[made - 2 : made + 2] == ["make models", "sync .", f"make {NET}", "sync models"]
    disk.did.clear()
    send(agent, connection, tmp_path, "net", 20, files_of(20, "two"))
    assert f"make {NET}" not in disk.did, "they are there"


def test_an_attempt_that_was_cut_before_its_folder_lasted_is_made_up_for(
    agent: Agent, connection: Connection, tmp_path: Path, disk: Disk
):
    staged = send(agent, connection, tmp_path, "net", 10, files_of(10, "one"))["folder"]
    disk.failing.add(f"sync {NET}/releases")
    with pytest.raises(Exception, match="Input/output error"):
        agent.call("activate", name="net", release=10, folder=staged, record={})
    disk.failing.clear()
    staged = send(agent, connection, tmp_path, "net", 10, files_of(10, "one"))["folder"]
    assert staged.endswith("releases/10")
    disk.did.clear()
    agent.call("activate", name="net", release=10, folder=staged, record={})
    assert disk.did[:3] == [f"sync {NET}/releases", f"{NET}/.current-new -> {NET}/current", f"sync {NET}"]


def test_a_rollback_lasts(agent: Agent, connection: Connection, tmp_path: Path, disk: Disk):
    for release in (10, 20):
        _activate(agent, connection, tmp_path, release)
    disk.did.clear()
    agent.call("rollback", name="net")
    switch = [f"{NET}/.current-new -> {NET}/current", f"sync {NET}"]
    assert disk.did == [*switch, f"sync {NET}/history.jsonl"]
    disk.did.clear()
    agent.call("heard", name="net", release=10)
    assert disk.did == [f"sync {NET}/history.jsonl"]


def test_a_switch_that_cannot_be_noted_is_taken_back_for_good(
    agent: Agent, connection: Connection, tmp_path: Path, disk: Disk
):
    for release, live_then in ((10, "nothing"), (20, "release 10")):
        history = Path(connection.folder, NET, "history.jsonl")
        noted = history.read_text() if history.exists() else ""
        disk.failing.add(f"sync {NET}/history.jsonl")
        with pytest.raises(WentBackError, match=f"could not be made live: .*Input/output error; live is {live_then}"):
            _activate(agent, connection, tmp_path, release)
        assert history.read_text() == noted, "what did not come to pass is not history"
        back = [f"remove {NET}/current"] if release == 10 else [f"{NET}/.current-new -> {NET}/current"]
        assert disk.since(back[0])[:2] == [*back, f"sync {NET}"]
        assert not Path(connection.folder, NET, "releases", str(release)).exists()
        disk.failing.clear()
        if release == 10:
            assert not Path(connection.folder, NET, "current").exists()
            ship(agent, connection, tmp_path, 10, "one")
    assert live(connection) == "one"


def test_a_switch_that_fails_itself_is_not_taken_back(agent: Agent, connection: Connection, tmp_path: Path, disk: Disk):
    ship(agent, connection, tmp_path, 10, "one")
    disk.failing.add(f"{NET}/.current-new -> {NET}/current")
    with pytest.raises(WentBackError, match="live is release 10"):
        _activate(agent, connection, tmp_path, 20)
    assert live(connection) == "one"
    assert f"{NET}/.current-new -> {NET}/current" not in disk.since(f".staging/release -> {NET}/releases/20")


def test_a_release_that_is_not_what_it_was_once_it_is_live_is_taken_back(
    agent: Agent, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ship(agent, connection, tmp_path, 10, "one")

    def switch(model: Path, release: int) -> None:
        switching.switch(model, release)
        (model / "current" / "labels.txt").write_text("of a disk that fails")

    with (
        monkeypatch.context() as patch,
        pytest.raises(WentBackError, match=r"labels\.txt: expected .* live is release 10"),
    ):
        patch.setattr(releases, "switch", switch)
        ship(agent, connection, tmp_path, 20, "two")
    assert live(connection) == "one"
    assert agent.call("deployed")[0]["release"] == 10


def test_what_is_removed_is_first_set_aside_in_one_step(
    agent: Agent, connection: Connection, tmp_path: Path, disk: Disk
):
    for release in (10, 20):
        _activate(agent, connection, tmp_path, release)
    disk.did.clear()
    _activate(agent, connection, tmp_path, 30)
    aside = disk.did.index(f"{NET}/releases/10 -> .staging")
    assert disk.did.index(f"sync {NET}/history.jsonl") < aside, "not before the new one is live"
    assert not [did for did in disk.did if did.startswith(f"remove {NET}/releases/10")]
    assert not list(Path(connection.folder, NET).glob(".staging-*"))


def test_who_is_trusted_lasts(tmp_path: Path, disk: Disk, local: Connection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signatures, "_try_cryptography", lambda context: None)
    context = Context(local.folder, None, lambda **_: None)  # type: ignore[arg-type]
    Path(local.folder).mkdir()
    disk.did.clear()
    keys = "trusted_keys"
    first, second = (signatures.trust_key(context, letter * 64)["key"] for letter in "ab")
    written = [
        [f"sync {keys}/.{key}.new", f"{keys}/.{key}.new -> {keys}/{key}.pub", f"sync {keys}"] for key in (first, second)
    ]
    assert disk.did == [f"make {keys}", "sync .", *written[0], *written[1]]
    disk.did.clear()
    signatures.distrust_key(context, first)
    assert disk.did == [f"remove {keys}/{first}.pub", f"sync {keys}"]


def _want(agent: Agent, spare_bytes: int = 0, **sizes: int) -> list[str]:
    files = {name: {"sha256": digest(name.encode()), "size_bytes": size} for name, size in sizes.items()}
    answer = agent.call("prepare", name="net", release=10, files=files, spare_bytes=spare_bytes)
    lacking: list[str] = answer["lacking"]
    return lacking


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes the disk has free."""

    def free(size_bytes: int) -> None:
        monkeypatch.setattr(store, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=size_bytes)))

    return free


def test_there_must_be_room_for_the_files_what_is_spare_and_a_margin(agent: Agent, free: Callable[[int], None]):
    needed = 3_000_000 + 500_000
    free(needed + 2_000_000 + (1 << 20))
    assert len(_want(agent, a=3_000_000, b=500_000, spare_bytes=2_000_000)) == 2
    free(needed + 2_000_000 + (1 << 20) - 1)
    words = r"5\.5 MB are needed and 1 MB to spare; the device has 6\.5 MB free"
    with pytest.raises(CheckFailedError, match=words):
        _want(agent, a=3_000_000, b=500_000, spare_bytes=2_000_000)
    assert len(_want(agent, a=3_000_000, b=500_000, spare_bytes=1_999_999)) == 2
    free((1 << 20) - 1)
    with pytest.raises(CheckFailedError, match=r"0\.0 MB are needed"):
        _want(agent)


def test_what_is_there_needs_no_room(agent: Agent, connection: Connection, free: Callable[[int], None]):
    _want(agent, a=1, b=1000)
    blobs = Path(connection.folder, "blobs")
    (blobs / digest(b"a")).write_bytes(b"a")
    (blobs / f"{digest(b'b')}.part").write_bytes(bytes(400))
    free(600 + (1 << 20))
    assert _want(agent, a=1, b=1000) == [digest(b"b")]
    free(599 + (1 << 20))
    with pytest.raises(CheckFailedError, match="are needed"):
        _want(agent, a=1, b=1000)
    (blobs / digest(b"a")).write_bytes(b"other")
    free(601 + (1 << 20))
    assert len(_want(agent, a=1, b=1000)) == 2, "what the disk lost is sent again, and needs room"


def test_what_the_store_holds_for_nobody_goes_first(
    agent: Agent, connection: Connection, tmp_path: Path, free: Callable[[int], None]
):
    ship(agent, connection, tmp_path, 5, "one")
    blobs = Path(connection.folder, "blobs")
    for name in (digest(b"b"), digest(b"stale"), f"{digest(b'stale')}.part"):
        (blobs / name).write_bytes(b"b")
    (blobs / f"{digest(b'a')}.part").write_bytes(b"half")
    assert _want(agent, a=1000, b=1) == [digest(b"a")]
    held = {digest(data) for data in files_of(5, "one").values()}
    assert {path.name for path in blobs.iterdir()} == held | {digest(b"b"), f"{digest(b'a')}.part"}


@pytest.mark.parametrize(("sha", "size"), [("x", 1), ("A" * 64, 1), (7, 1), ("a" * 64, -1), ("a" * 64, "1")])
def test_only_files_by_their_hash_are_wanted(tmp_path: Path, sha: Any, size: Any):
    context = Context(str(tmp_path), None, lambda **_: None)  # type: ignore[arg-type]
    with pytest.raises(OperationError, match="is no file by its SHA-256"):
        store.want(context, {sha: size})


def test_a_model_is_switched_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(s=0.0, frees_at=5.0)
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def sleep(seconds: float) -> None:
            clock.s += seconds
            assert clock.s < 100, "it waits for ever"
            if clock.s >= clock.frees_at:
                fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr(machine, "sleep", sleep)
        monkeypatch.setattr(machine, "monotonic_s", lambda: clock.s)
        with switching.one_at_a_time(tmp_path):
            assert clock.s == pytest.approx(5, abs=0.11)
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        clock.frees_at, began = 1e9, clock.s
        with (
            pytest.raises(OperationError, match=f"another release of {tmp_path.name} is being switched to") as caught,
            switching.one_at_a_time(tmp_path),
        ):
            pass
        assert caught.value.kind == "busy"
        assert clock.s - began == pytest.approx(20, abs=0.21)


@pytest.mark.parametrize("operation", ["activate", "rollback", "heard"])
def test_whatever_switches_waits_its_turn(
    agent: Agent, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
):
    ship(agent, connection, tmp_path, 10, "one")
    ship(agent, connection, tmp_path, 20, "two")
    agent.call("rollback", name="net")
    staged = send(agent, connection, tmp_path, "net", 30, files_of(30, "three"))["folder"]
    held: list[bool] = []
    really_note = switching.note

    def note(model: Path, *arguments: Any, **more: Any) -> None:
        with (model / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                held.append(True)
        really_note(model, *arguments, **more)

    monkeypatch.setattr(releases, "note", note)
    params: dict[str, dict[str, Any]] = {
        "activate": {"release": 30, "folder": staged, "record": {}}, "rollback": {"to": 20}, "heard": {"release": 10},
    }  # fmt: skip
    agent.call(operation, name="net", **params[operation])
    assert held == [True]


def test_a_history_s_line_is_whole(tmp_path: Path):
    switching.note(tmp_path, "activate", 10, record={"of": "one"})
    (event,) = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert (event["event"], event["release"], event["record"], event["at"][-1]) == ("activate", 10, {"of": "one"}, "Z")
