"""An agent that would hold the host, fill it, or break it: every answer ends. All of them are scripted."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.device import Agent, Connection, Phone, session
from edgenas.errors import DeviceError, EdgeNASError, InputError
from tests.device.scripted import FAR, Talker

pytestmark = pytest.mark.usefixtures("nothing_hangs")
PROGRESS = b'{"id": 1, "event": "progress", "run": 1}\n'
LONG_PROGRESS = PROGRESS.replace(b"1}", b'"' + b"x" * 20_000 + b'"}')


def agent_that(talker: Any) -> Agent:
    return Agent(SimpleNamespace(device=FAR), talker)  # type: ignore[arg-type]


# Answers of the agent


@pytest.mark.parametrize(
    ("op", "params", "most_s"),
    [("status", {}, 60), ("deployed", {}, 60), ("infer", {}, 43_200), ("single", {"runs": 10, "every_us": 0}, 43_200),
     ("single", {"runs": 100_000, "every_us": 10_000_000}, 43_200 + 2_000_000), ("measure", {"runs": 5}, 43_200)],
)  # fmt: skip
def test_endless_progress_ends(monkeypatch: pytest.MonkeyPatch, op: str, params: dict[str, Any], most_s: float):
    talker = Talker(PROGRESS, 59, monkeypatch)
    with pytest.raises(DeviceError, match=r"far: the agent was not done after [^ ]+ s while asked to") as caught:
        agent_that(talker).call(op, timeout_s=60, **params)
    assert f"after {most_s:g} s while asked to {op}." in str(caught.value)
    assert most_s <= talker.s <= most_s + 59


@pytest.mark.parametrize("piece", [b" ", b"{", b'{"id": 1'])
def test_bytes_that_never_become_a_line_are_silence(monkeypatch: pytest.MonkeyPatch, piece: bytes):
    talker = Talker(piece, 0.5, monkeypatch)
    with pytest.raises(DeviceError, match="far: the agent said nothing for 60 s while asked to measure"):
        agent_that(talker).call("measure", timeout_s=60)
    assert talker.s == 60


def test_silence_after_progress_is_silence(monkeypatch: pytest.MonkeyPatch):
    talker = Talker(PROGRESS, 1, monkeypatch)
    pieces = iter([PROGRESS, PROGRESS])

    def receive(timeout_s: float) -> bytes:
        talker.s += 1
        if (piece := next(pieces, b"")) == b"":
            talker.s += timeout_s
            raise TimeoutError
        return piece

    talker.receive = receive  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="said nothing for 60 s while asked to measure"):
        agent_that(talker).call("measure", timeout_s=60)


@pytest.mark.parametrize(("op", "most_kb"), [("status", 64), ("deployed", 4096), ("measure", 8192)])
@pytest.mark.parametrize("piece", [LONG_PROGRESS, b"x" * 50_000])
def test_answers_without_end_are_not_kept(monkeypatch: pytest.MonkeyPatch, op: str, most_kb: int, piece: bytes):
    talker = Talker(piece, 0, monkeypatch)
    with pytest.raises(DeviceError, match=rf"the agent's answer to {op} makes no sense: it has more than {most_kb} kB"):
        agent_that(talker).call(op)
    assert talker.said_bytes <= (most_kb << 10) + 2 * len(piece)


def test_answers_of_the_largest_size_are_read(monkeypatch: pytest.MonkeyPatch):
    def line(most_bytes: int) -> bytes:
        begin, end = b'{"id": 1, "ok": true, "result": "', b'"}\n'
        return begin + b"x" * (most_bytes - len(begin) - len(end)) + end

    for op, most_bytes in (("status", 64 << 10), ("deployed", 4 << 20)):
        assert len(agent_that(Talker(line(most_bytes), 0, monkeypatch)).call(op)) > most_bytes - 100
        with pytest.raises(DeviceError, match="it has more than"):
            agent_that(Talker(line(most_bytes + 1), 0, monkeypatch)).call(op)


LONG = "x" * 60_000


@pytest.mark.parametrize(
    "said",
    [
        {"id": LONG}, {"id": [LONG]}, {"ok": False, "error": LONG}, {"ok": False, "error": {"message": LONG}},
        {"ok": False, "error": {"kind": LONG, "message": LONG}}, {"ok": False, "error": {"kind": "no_runtime",
         "message": LONG}}, {"ok": True, "result": {"agent": LONG}}, {"ok": True, "result": {LONG: 1}},
        {"ok": True, "result": LONG}, {"ok": True, "result": [LONG]}, {LONG: LONG},
    ],
)  # fmt: skip
@pytest.mark.parametrize("ask", [lambda agent: agent.info, lambda agent: agent.status()])
def test_what_it_says_is_not_repeated_whole(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], ask: Callable[[Agent], Any]
):
    line = json.dumps({"id": 1, **said}).encode() + b"\n"
    try:
        ask(agent_that(Talker(line, 0, monkeypatch)))
    except EdgeNASError as error:
        assert len(str(error)) < 2500


@pytest.mark.parametrize("kind", [[], ["no_space"], {}, {"a": []}, None, 7, True])
def test_a_refusal_of_no_kind_makes_no_sense(monkeypatch: pytest.MonkeyPatch, kind: object):
    line = json.dumps({"id": 1, "ok": False, "error": {"kind": kind, "message": "no"}}).encode() + b"\n"
    with pytest.raises(DeviceError, match="neither a result nor an error"):
        agent_that(Talker(line, 0, monkeypatch)).call("status")


# Phones, and what the agent finds on its own device


def test_a_phone_that_answers_bit_by_bit_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    from edgenas.device import phone

    talker = Talker(b"h", 0.5, monkeypatch)
    monkeypatch.setattr(
        phone, "time", SimpleNamespace(monotonic=lambda: talker.s, strftime=lambda *_: "", gmtime=lambda: None)
    )
    it = Phone(SimpleNamespace(device=FAR, path=str, start=lambda argv: talker))  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="it said nothing for 30 s when asked for its lock"):
        it.lock()
    assert talker.s == 30


def test_pipes_in_the_places_of_the_agents_files(here: Agent, local: Connection, tmp_path: Path):
    from tests.device.test_releases import ship

    ship(here, local, tmp_path, 10, "one")
    history = Path(local.folder, "models/net/history.jsonl")
    history.unlink()
    os.mkfifo(history)
    with pytest.raises(DeviceError, match=r"it is no file: .*history\.jsonl"):
        here.call("rollback", name="net")
    history.unlink()
    keys = Path(local.folder, "trusted_keys")
    keys.mkdir()
    os.mkfifo(keys / f"{'a' * 16}.pub")
    with pytest.raises(InputError, match=r"cannot be read \(it is no file: .*a\.pub\), so it takes nothing"):
        here.call("verify", name="net")
    (keys / f"{'a' * 16}.pub").unlink()
    blobs = Path(local.folder, "blobs")
    for name in ("b" * 64, f"{'c' * 64}.part"):
        os.mkfifo(blobs / name)
    assert here.call("prepare", name="net", release=20, files={"x": {"sha256": "b" * 64, "size_bytes": 1}}) == {
        "folder": str(blobs), "lacking": ["b" * 64],
    }  # fmt: skip


def test_a_pipe_in_the_place_of_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from edgenas.device.agent import locking

    os.mkfifo(tmp_path / "edgenas-device.lock")
    assert locking._holder(tmp_path / "edgenas-device.lock") == "somebody else"
    os.close(locking._open(tmp_path / "edgenas-device.lock"))


def test_a_pipe_in_the_place_of_the_agent(connection: Connection, tmp_path: Path):
    os.mkfifo(tmp_path / "agent.pyz")
    assert session.find_python(connection, str(tmp_path / "agent.pyz"))[1] == "-"
