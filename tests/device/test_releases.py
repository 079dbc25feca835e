"""Releases on the device: staged, verified, switched, taken back."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgenas.device import Agent, Connection
from edgenas.errors import CheckFailedError, DeviceError, InputError


@pytest.fixture
def agent(connection: Connection) -> Iterator[Agent]:
    with connection.open_agent() as agent:
        yield agent


def _ship(agent: Agent, connection: Connection, tmp_path: Path, content: str, name: str = "net") -> int:
    local = tmp_path / "model.tflite"
    local.write_text(content)
    staging = agent.call("stage", name=name, bytes_needed=len(content))["staging"]
    connection.put(local, f"{staging}/model.tflite")
    hashes = {"model.tflite": hashlib.sha256(content.encode()).hexdigest()}
    assert agent.call("verify_staged", staging=staging, hashes=hashes) == {"files": 1}
    return agent.call("activate", name=name, staging=staging, record={"of": content})["release"]


def _live(connection: Connection) -> str:
    return Path(connection.folder, "models/net/current/model.tflite").read_text()


def _kept(connection: Connection) -> list[str]:
    return sorted(path.name for path in Path(connection.folder, "models/net/releases").iterdir())


def test_releases_go_live_and_back(agent: Agent, connection: Connection, tmp_path: Path):
    assert agent.call("deployed") == []
    assert _ship(agent, connection, tmp_path, "one") == 1
    with pytest.raises(CheckFailedError, match="no earlier release"):
        agent.call("rollback", name="net")
    assert _ship(agent, connection, tmp_path, "two") == 2
    assert _ship(agent, connection, tmp_path, "three") == 3
    assert _live(connection) == "three"
    assert _kept(connection) == ["2", "3"], "the live one and the one before"
    (shown,) = agent.call("deployed")
    assert (shown["name"], shown["release"], shown["previous"], shown["record"]) == ("net", 3, 2, {"of": "three"})
    assert shown["since"].endswith("Z")
    assert agent.call("rollback", name="net") == {"release": 2, "from": 3}
    assert _live(connection) == "two"
    with pytest.raises(CheckFailedError, match="no earlier release"):
        agent.call("rollback", name="net")
    assert _ship(agent, connection, tmp_path, "four") == 4, "a number is never used twice"
    assert agent.call("deployed")[0]["previous"] == 2
    assert agent.call("rollback", name="net")["release"] == 2
    assert _live(connection) == "two"


def test_a_device_without_room_says_both_figures(agent: Agent, connection: Connection, tmp_path: Path):
    _ship(agent, connection, tmp_path, "one")
    with pytest.raises(CheckFailedError, match=r"needs 1000000000\.0 MB and 1 MB to spare; the device has .* MB free"):
        agent.call("stage", name="net", bytes_needed=10**15)
    assert _live(connection) == "one"


def test_files_that_do_not_match_are_named(agent: Agent, connection: Connection, tmp_path: Path):
    (tmp_path / "a").write_text("a")
    digest = hashlib.sha256(b"a").hexdigest()
    staging = agent.call("stage", name="net", bytes_needed=1)["staging"]
    connection.put(tmp_path / "a", f"{staging}/a")
    for hashes, message in (
        ({"a": "0" * 64}, f"a: expected sha256 {'0' * 64}, received {digest}"),
        ({"a": digest, "b": digest}, "b is missing"),
        ({}, "a was not expected"),
    ):
        with pytest.raises(CheckFailedError, match=message):
            agent.call("verify_staged", staging=staging, hashes=hashes)
    assert agent.call("hash", path=f"{staging}/a") == {"sha256": digest, "size_bytes": 1}
    agent.call("discard", staging=staging)
    assert not Path(staging).exists()


def test_staging_anew_removes_what_was_left(agent: Agent, connection: Connection):
    first = agent.call("stage", name="net", bytes_needed=1)["staging"]
    second = agent.call("stage", name="net", bytes_needed=1)["staging"]
    assert first != second
    assert not Path(first).exists()
    assert Path(second).exists()


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "-x", "a" * 64])
def test_names_are_checked_on_the_device_too(agent: Agent, name: str):
    with pytest.raises(InputError, match="no name for a model"):
        agent.call("stage", name=name, bytes_needed=1)


def test_only_staging_folders_are_touched(agent: Agent, connection: Connection, tmp_path: Path):
    _ship(agent, connection, tmp_path, "one")
    outside = tmp_path / "net" / ".staging-1-1"
    outside.mkdir(parents=True)
    inside = Path(connection.folder, "models/net")
    (inside / ".staging-link").symlink_to(outside)
    for path in (outside, inside, inside / "releases" / "1", inside / ".staging-1-1" / ".." / "releases",
                 inside / ".staging-link"):  # fmt: skip
        with pytest.raises(DeviceError, match="is no staging folder"):
            agent.call("discard", staging=str(path))
    assert outside.is_dir()
    assert _live(connection) == "one"
    other = agent.call("stage", name="other", bytes_needed=1)["staging"]
    with pytest.raises(DeviceError, match="staged for another model"):
        agent.call("activate", name="net", staging=other, record={})
    with pytest.raises(InputError, match="no model 'unknown'"):
        agent.call("rollback", name="unknown")


def test_a_torn_or_lost_history_line_loses_no_release(agent: Agent, connection: Connection, tmp_path: Path):
    """What a power cut can leave: the switch made, its note torn or not written."""
    for content in ("one", "two"):
        _ship(agent, connection, tmp_path, content)
    history = Path(connection.folder, "models/net/history.jsonl")
    lines = history.read_text().splitlines(keepends=True)
    history.write_text(lines[0] + lines[1][:20])
    (shown,) = agent.call("deployed")
    assert (shown["release"], shown["previous"], shown["record"]) == (2, 1, None)
    assert _ship(agent, connection, tmp_path, "three") == 3
    assert agent.call("deployed")[0]["record"] == {"of": "three"}
    assert agent.call("rollback", name="net")["release"] in (1, 2)
