"""Releases on the device: sent by content, staged, verified, switched to, taken back.

What a full disk and a power cut do to them is tests/device/test_power_cut.py.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgenas.device import Agent, Connection, Device, connect, open_agent
from edgenas.errors import CheckFailedError, DeviceError, InputError


@pytest.fixture
def connection(local: Connection) -> Connection:
    return local


@pytest.fixture
def agent(here: Agent) -> Agent:
    return here


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_of(release: int, model: str, **changes: bytes) -> dict[str, bytes]:
    """What a release consists of."""
    content = {"model.tflite": model.encode(), "labels.txt": b"a\nb\n"}
    manifest = {"release": release, "files": {name: digest(data) for name, data in content.items()}}
    return content | {"manifest.json": json.dumps(manifest).encode()} | changes


def send(agent: Agent, connection: Connection, tmp_path: Path, name: str, release: int, files: dict[str, bytes]) -> Any:
    sizes = {file: {"sha256": digest(data), "size_bytes": len(data)} for file, data in files.items()}
    wanted = agent.call("prepare", name=name, release=release, files=sizes)
    for data in files.values():
        if digest(data) in wanted["lacking"]:
            (tmp_path / "file").write_bytes(data)
            connection.put(tmp_path / "file", f"{wanted['folder']}/{digest(data)}", resume=True)
    return agent.call("stage", name=name, release=release, files={file: digest(data) for file, data in files.items()})


def ship(
    agent: Agent, connection: Connection, tmp_path: Path, release: int, model: str, name: str = "net", keep: int = 2
) -> int:
    staged = send(agent, connection, tmp_path, name, release, files_of(release, model))
    answer = agent.call(
        "activate", name=name, release=release, folder=staged["folder"], record={"of": model}, keep=keep
    )
    return int(answer["release"])


def point(connection: Connection, release: int) -> None:
    """What a switch does that is cut before it is noted."""
    link = Path(connection.folder, "models/net/current")
    link.unlink()
    link.symlink_to(f"releases/{release}")


def live(connection: Connection) -> str:
    return Path(connection.folder, "models/net/current/model.tflite").read_text()


def kept(connection: Connection) -> list[str]:
    return sorted(path.name for path in Path(connection.folder, "models/net/releases").iterdir())


def blobs(connection: Connection) -> set[str]:
    return {path.name for path in Path(connection.folder, "blobs").iterdir()}


def test_releases_go_live_and_back(device: Device, tmp_path: Path):
    """With an agent of its own process, on each way to it."""
    with connect(device) as connection, open_agent(connection) as agent:
        _go_live_and_back(agent, connection, tmp_path)


def _go_live_and_back(agent: Agent, connection: Connection, tmp_path: Path) -> None:
    assert agent.call("deployed") == []
    assert ship(agent, connection, tmp_path, 10, "one") == 10
    with pytest.raises(CheckFailedError, match="no earlier release"):
        agent.call("rollback", name="net")
    assert ship(agent, connection, tmp_path, 20, "two") == 20
    assert ship(agent, connection, tmp_path, 30, "three") == 30
    assert live(connection) == "three"
    assert kept(connection) == ["20", "30"], "the live one and the one before"
    assert digest(b"one") not in blobs(connection), "what no release holds goes"
    (shown,) = agent.call("deployed")
    assert (shown["name"], shown["release"], shown["previous"], shown["record"]) == ("net", 30, 20, {"of": "three"})
    assert shown["since"].endswith("Z")
    assert agent.call("rollback", name="net") == {"release": 20, "from": 30}
    assert live(connection) == "two"
    agent.call("heard", name="net", release=20)
    with pytest.raises(CheckFailedError, match="no earlier release"):
        agent.call("rollback", name="net")
    assert ship(agent, connection, tmp_path, 40, "four") == 40
    assert agent.call("deployed")[0]["previous"] == 20
    assert agent.call("rollback", name="net")["release"] == 20
    assert live(connection) == "two"


def test_an_older_release_is_a_replay_unless_rollback_asks_for_it(agent: Agent, connection: Connection, tmp_path: Path):
    for release in (10, 20, 30):
        ship(agent, connection, tmp_path, release, f"of {release}")
    with pytest.raises(CheckFailedError, match="release 20 of net is older than release 30, which this device has had"):
        ship(agent, connection, tmp_path, 20, "of 20")
    with pytest.raises(CheckFailedError, match="release 10 of net is not kept on this device; it has 20, 30"):
        agent.call("rollback", name="net", to=10)
    assert agent.call("rollback", name="net", to=20) == {"release": 20, "from": 30}
    with pytest.raises(CheckFailedError, match="release 25 of net is older than release 30"):
        ship(agent, connection, tmp_path, 25, "of 25")
    assert live(connection) == "of 20"
    assert ship(agent, connection, tmp_path, 30, "of 30") == 30, "the newest one it had is no replay"
    for bad in (0, -1, 10**18, True, "7", None):
        with pytest.raises(InputError, match="is no number for a release"):
            agent.call("prepare", name="net", release=bad, files={})


def test_what_is_there_is_not_sent_again_and_is_checked(agent: Agent, connection: Connection, tmp_path: Path):
    ship(agent, connection, tmp_path, 10, "one")
    second = files_of(20, "one")
    sizes = {file: {"sha256": digest(data), "size_bytes": len(data)} for file, data in second.items()}
    wanted = agent.call("prepare", name="net", release=20, files=sizes)
    assert wanted["lacking"] == [digest(second["manifest.json"])], "model and labels are the live release's"
    Path(connection.folder, "models/net/current/model.tflite").write_text("eno")
    wanted = agent.call("prepare", name="net", release=20, files=sizes)
    assert digest(b"one") in wanted["lacking"], "what the disk lost is sent again"
    assert ship(agent, connection, tmp_path, 20, "one") == 20
    assert live(connection) == "one"
    with pytest.raises(CheckFailedError, match=f"model.tflite: expected sha256 {digest(b'one')}, received"):
        agent.call("rollback", name="net")
    assert live(connection) == "one", "a damaged release is not gone back to"


def test_the_same_release_once_more_changes_nothing(agent: Agent, connection: Connection, tmp_path: Path):
    ship(agent, connection, tmp_path, 10, "one")
    history = Path(connection.folder, "models/net/history.jsonl").read_text()
    assert ship(agent, connection, tmp_path, 10, "one") == 10
    assert Path(connection.folder, "models/net/history.jsonl").read_text() == history
    with pytest.raises(
        CheckFailedError, match=r"release 10 of net is live on this device and is another bundle; .*--after 10"
    ):
        ship(agent, connection, tmp_path, 10, "other")
    assert live(connection) == "one"
    Path(connection.folder, "models/net/current/labels.txt").write_text("x")
    with pytest.raises(CheckFailedError, match="the live release 10 of net is damaged"):
        ship(agent, connection, tmp_path, 10, "one")
    with pytest.raises(CheckFailedError, match=r"labels\.txt: expected sha256"):
        agent.call("verify", name="net")


def test_files_that_do_not_match_are_named(agent: Agent, connection: Connection, tmp_path: Path):
    good = files_of(10, "one")
    other = json.dumps({"release": 11, "files": json.loads(good["manifest.json"])["files"]}).encode()
    short = json.dumps({"release": 10, "files": {"model.tflite": digest(b"one")}}).encode()
    for files, message in (
        (good | {"model.tflite": b"two"}, f"model.tflite: expected sha256 {digest(b'one')}, received {digest(b'two')}"),
        (good | {"more.txt": b"x"}, "'more.txt' was not expected in release 10"),
        (good | {"manifest.json": other}, "manifest.json is of release 11, expected 10"),
        (good | {"manifest.json": short}, "labels.txt is missing in release 10"),
        (good | {"manifest.json": b"{"}, "manifest.json of release 10 cannot be read"),
    ):
        with pytest.raises(CheckFailedError, match=message):
            send(agent, connection, tmp_path, "net", 10, files)
    with pytest.raises(CheckFailedError, match=r"a\.txt \(sha256 0+\) is missing among the files received"):
        agent.call("stage", name="net", release=10, files={"a.txt": "0" * 64})
    agent.call("discard", name="net", files=[digest(data) for data in good.values()])
    assert not Path(connection.folder, "models/net").exists()
    assert not blobs(connection) & {digest(data) for data in good.values()}


def test_a_blob_that_arrived_damaged_is_not_kept(agent: Agent, connection: Connection, tmp_path: Path):
    files = files_of(10, "one")
    sizes = {file: {"sha256": digest(data), "size_bytes": len(data)} for file, data in files.items()}
    folder = agent.call("prepare", name="net", release=10, files=sizes)["folder"]
    for data in files.values():
        (tmp_path / "file").write_bytes(data.upper())
        connection.put(tmp_path / "file", f"{folder}/{digest(data)}", resume=True)
    hashes = {file: digest(data) for file, data in files.items()}
    with pytest.raises(CheckFailedError, match=r"labels\.txt: expected sha256"):
        agent.call("stage", name="net", release=10, files=hashes)
    assert ship(agent, connection, tmp_path, 10, "one") == 10


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "-x", "a" * 64])
def test_names_are_checked_on_the_device_too(agent: Agent, name: str):
    with pytest.raises(InputError, match="no name for a model"):
        agent.call("prepare", name=name, release=1, files={})
    with pytest.raises(InputError, match="no name for a file of a release"):
        agent.call("stage", name="net", release=1, files={name: "0" * 64})


def test_only_staged_releases_are_switched_to(agent: Agent, connection: Connection, tmp_path: Path):
    ship(agent, connection, tmp_path, 10, "one")
    outside = tmp_path / "net" / ".staging-1-1" / "release"
    outside.mkdir(parents=True)
    other = send(agent, connection, tmp_path, "other", 20, files_of(20, "two"))["folder"]
    inside = Path(connection.folder, "models/net/releases")
    for folder in (outside, other, inside, inside / "10"):
        with pytest.raises(DeviceError, match="is no release staged for 'net'"):
            agent.call("activate", name="net", release=20, folder=str(folder), record={})
    staged = send(agent, connection, tmp_path, "net", 20, files_of(20, "two"))["folder"]
    Path(staged, "model.tflite").unlink()
    Path(staged, "model.tflite").write_text("two, changed after it was staged")
    with pytest.raises(CheckFailedError, match=r"model\.tflite: expected sha256"):
        agent.call("activate", name="net", release=20, folder=staged, record={})
    assert live(connection) == "one"


def test_a_torn_history_loses_its_last_line_only(agent: Agent, connection: Connection, tmp_path: Path):
    ship(agent, connection, tmp_path, 10, "one")
    ship(agent, connection, tmp_path, 20, "two")
    history = Path(connection.folder, "models/net/history.jsonl")
    history.write_bytes(history.read_bytes() + b'{"event": "activate", "rele')
    assert agent.call("rollback", name="net")["release"] == 10
    assert [json.loads(line)["release"] for line in history.read_text().splitlines() if line.endswith("}")] == [
        10, 20, 10
    ]  # fmt: skip
    assert agent.call("deployed")[0]["previous"] is None


def test_a_switch_whose_note_was_lost_is_made_up_for(agent: Agent, connection: Connection, tmp_path: Path):
    ship(agent, connection, tmp_path, 10, "one")
    ship(agent, connection, tmp_path, 20, "two")
    history = Path(connection.folder, "models/net/history.jsonl")
    history.write_text(history.read_text().splitlines()[0] + "\n")
    (shown,) = agent.call("deployed")
    assert (shown["release"], shown["previous"], shown["record"]) == (20, 10, None)
    assert ship(agent, connection, tmp_path, 20, "two") == 20
    assert agent.call("deployed")[0]["record"] == {"of": "two"}
    assert agent.call("rollback", name="net")["release"] == 10


def test_a_rollback_whose_answer_was_lost_is_not_done_twice(agent: Agent, connection: Connection, tmp_path: Path):
    for release in (10, 20, 30):
        ship(agent, connection, tmp_path, release, f"of {release}", keep=3)
    for _ in range(2):
        assert agent.call("rollback", name="net") == {"release": 20, "from": 30}
    assert agent.call("rollback", name="net", to=20) == {"release": 20, "from": 30}
    agent.call("heard", name="net", release=30)  # of another one
    assert agent.call("rollback", name="net") == {"release": 20, "from": 30}
    agent.call("heard", name="net", release=20)
    assert agent.call("rollback", name="net", to=20) == {"release": 20, "from": 20}, "done already"
    assert agent.call("rollback", name="net") == {"release": 10, "from": 20}
    assert live(connection) == "of 10"
    history = Path(connection.folder, "models/net/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in history[3:]] == ["rollback", "heard", "rollback"]


@pytest.mark.parametrize("to", [None, 20])
def test_a_rollback_that_was_cut_before_its_note_is_finished(
    agent: Agent, connection: Connection, tmp_path: Path, to: int | None
):
    for release in (10, 20, 30):
        ship(agent, connection, tmp_path, release, f"of {release}", keep=3)
    point(connection, 20)
    assert agent.call("rollback", name="net", to=to) == {"release": 20, "from": 30}
    assert live(connection) == "of 20"
    (shown,) = agent.call("deployed")
    assert (shown["release"], shown["previous"], shown["record"]) == (20, 10, {"of": "of 20"})


def test_after_a_rollback_that_was_cut_the_next_release_goes_back_to_what_was_live(
    agent: Agent, connection: Connection, tmp_path: Path
):
    for release in (10, 20, 30):
        ship(agent, connection, tmp_path, release, f"of {release}", keep=3)
    point(connection, 20)
    assert ship(agent, connection, tmp_path, 20, "of 20", keep=3) == 20, "nothing but the note is lacking"
    assert agent.call("deployed")[0]["previous"] == 10
    ship(agent, connection, tmp_path, 40, "of 40", keep=3)
    assert agent.call("rollback", name="net") == {"release": 20, "from": 40}


def test_a_release_whose_note_was_cut_is_gone_back_to_and_from(agent: Agent, connection: Connection, tmp_path: Path):
    ship(agent, connection, tmp_path, 10, "one")
    for release in (20, 30):
        staged = send(agent, connection, tmp_path, "net", release, files_of(release, f"of {release}"))
        Path(staged["folder"]).rename(Path(connection.folder, "models/net/releases", str(release)))
    point(connection, 20)
    ship(agent, connection, tmp_path, 40, "four", keep=3)
    assert kept(connection) == ["10", "20", "40"], "30 never was live: it takes nobody's place, and goes"
    assert agent.call("rollback", name="net") == {"release": 20, "from": 40}
    point(connection, 40)
    assert agent.call("rollback", name="net", to=10) == {"release": 10, "from": 40}


def test_what_never_was_live_is_discarded_with_its_files(agent: Agent, connection: Connection, tmp_path: Path):
    ship(agent, connection, tmp_path, 10, "one")
    files = files_of(20, "two")
    staged = send(agent, connection, tmp_path, "net", 20, files)
    Path(staged["folder"]).rename(Path(connection.folder, "models/net/releases/20"))
    for release in (10, 20):
        agent.call("discard", name="net", files=[digest(data) for data in files.values()], release=release)
    assert kept(connection) == ["10"]
    assert live(connection) == "one"
    assert digest(b"two") not in blobs(connection)


def test_what_never_was_live_makes_room_for_another_of_its_number(agent: Agent, connection: Connection, tmp_path: Path):
    ship(agent, connection, tmp_path, 10, "one")
    staged = send(agent, connection, tmp_path, "net", 20, files_of(20, "two"))
    Path(staged["folder"]).rename(Path(connection.folder, "models/net/releases/20"))
    assert ship(agent, connection, tmp_path, 20, "other") == 20
    assert live(connection) == "other"


def test_another_precision_of_a_release_that_was_live_is_said_to_be_that(
    agent: Agent, connection: Connection, tmp_path: Path
):
    ship(agent, connection, tmp_path, 10, "one")
    manifest = {"model.tflite": digest(b"int8"), "model_float32.tflite": digest(b"float"), "labels.txt": digest(b"a\n")}
    files = {"manifest.json": json.dumps({"release": 20, "files": manifest}).encode(), "labels.txt": b"a\n"}
    staged = send(agent, connection, tmp_path, "net", 20, files | {"model.tflite": b"int8"})
    agent.call("activate", name="net", release=20, folder=staged["folder"], record={})
    words = r"release 20 of net is {} on this device with other files of this bundle \(in another precision\); a bundle"
    with pytest.raises(CheckFailedError, match=words.format("live")):
        send(agent, connection, tmp_path, "net", 20, files | {"model.tflite": b"float"})
    agent.call("rollback", name="net")
    with pytest.raises(CheckFailedError, match=words.format("kept")):
        send(agent, connection, tmp_path, "net", 20, files | {"model.tflite": b"float"})
    assert agent.call("rollback", name="net", to=20)["release"] == 20
    assert live(connection) == "int8"


@pytest.mark.parametrize("damaged", ["labels.txt", "manifest.json"])
def test_only_the_same_files_take_the_place_of_a_damaged_release(
    agent: Agent, connection: Connection, tmp_path: Path, damaged: str
):
    ship(agent, connection, tmp_path, 10, "one")
    files = files_of(20, "two")
    staged = send(agent, connection, tmp_path, "net", 20, files)
    record = {"sha256": {file: digest(data) for file, data in files.items()}}
    agent.call("activate", name="net", release=20, folder=staged["folder"], record=record)
    agent.call("rollback", name="net")
    Path(connection.folder, "models/net/releases/20", damaged).unlink()
    words = rf"release 20 of net is damaged on this device \({damaged} .*\), and only the files that it had"
    with pytest.raises(CheckFailedError, match=words):
        send(agent, connection, tmp_path, "net", 20, files_of(20, "other"))
    assert ship(agent, connection, tmp_path, 20, "two") == 20
    assert live(connection) == "two"


def test_the_number_to_be_above_is_named(agent: Agent, connection: Connection, tmp_path: Path):
    """It may be far in the future: then no clock helps."""
    ship(agent, connection, tmp_path, 99990101000000, "one")
    with pytest.raises(CheckFailedError, match="edgenas sign BUNDLE --after 99990101000000"):
        ship(agent, connection, tmp_path, 20261124154501, "two")
