"""The agent: how it gets there, and its conversation with the host, which believes nothing unchecked."""

import ast
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import edgenas.device
from edgenas.device import Agent, Connection, Device, connect, open_agent, session, shares_host
from edgenas.device.session import agent_program
from edgenas.errors import CheckFailedError, DeviceError, InputError, WentBackError
from tests.board import Board
from tests.device.scripted import PI, Says

SOURCE = Path(edgenas.device.__file__).parent / "agent"


def test_everything_that_is_sent_is_python_3_8_without_edgenas():
    for path in SOURCE.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not [name for name in names if name.startswith("edgenas")], path
    assert agent_program() == agent_program.__wrapped__(), "the same source gives the same file"


def test_hello(connection: Connection):
    with open_agent(connection) as agent:
        info = agent.info
    assert (info.bits, info.cores) == (64, psutil.cpu_count())
    assert abs(info.memory_total_kb - psutil.virtual_memory().total / 1024) < 1024
    assert info.python.startswith("3.")
    assert info.libc.startswith("glibc 2.")
    assert shares_host(info)
    assert len(info.fingerprint) == 12
    assert {state.package for state in info.runtimes} == {"ai-edge-litert", "tflite-runtime"}


def test_the_agent_is_sent_once(connection: Connection):
    seen = set()
    for _ in range(2):
        with open_agent(connection) as agent:
            assert agent.call("status")["memory_available_kb"] > 0
        (sent,) = Path(connection.folder, "agents").iterdir()
        seen.add((sent.stat().st_ino, sent.stat().st_mtime_ns))
    assert len(seen) == 1


@pytest.mark.parametrize("content", [b"", b"PK half of it"])
def test_an_agent_that_a_power_cut_spoiled_is_sent_again(connection: Connection, content: bytes):
    with open_agent(connection):
        (sent,) = Path(connection.folder, "agents").iterdir()
    sent.write_bytes(content)
    with open_agent(connection) as agent:
        assert agent.info.cores > 0
    assert sent.read_bytes() == agent_program()


def test_the_runtime_of_the_host_is_found(local: Connection):
    with open_agent(local) as agent:
        assert agent.runtime_version("ai-edge-litert").startswith("2.")
        with pytest.raises(DeviceError, match=r"tflite-runtime does not work there: not installed.*device setup here"):
            agent.runtime_version("tflite-runtime")
        with pytest.raises(DeviceError, match=r"does not import.*edgenas device setup here"):
            agent.call("measure", models=[], reference="x", visits=1, runtime="tflite-runtime")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("hello", "which is not JSON"),
        ("[1]", "which is not an answer"),
        ('{"id": 7, "ok": true, "result": 1}', "answered request 7, asked was 1"),
        ('{"id": 1, "ok": false}', "neither a result nor an error"),
        ('{"id": 1, "ok": true, "result": {"agent": "x"}}', "makes no sense.*agent: expected int"),
        ('{"id": 1, "ok": true, "result": []}', "makes no sense.*expected a table"),
        ('{"id": 1, "ok": true, "result": {"agent": NaN}}', "which is not JSON"),
        ('{"id": 1, "ok": true, "result": {"agent": 1e999}}', "which is not JSON"),
        ('{"id": 1, "ok": true, "result": ' + "[" * 50_000, "which is not JSON"),
    ],
)
def test_an_answer_is_not_believed_unchecked(local: Connection, said: str, message: str):
    with Agent(local, Says(said)) as agent, pytest.raises(DeviceError, match=message):
        _ = agent.info


@pytest.mark.parametrize(
    "wrong",
    [{"python": "3.x"}, {"python": "3.12+"}, {"python": "2.7.1"}, {"bits": 7}, {"cores": 0}, {"memory_total_kb": -1},
     {"memory_available_kb": -1}, {"disk_free_kb": -1}, {"cores": (1 << 16) + 1}, {"memory_total_kb": 1 << 40}],
)  # fmt: skip
def test_impossible_values_from_a_device_are_refused(local: Connection, wrong: dict[str, Any]):
    line = json.dumps({"id": 1, "ok": True, "result": dataclasses.asdict(PI) | wrong})
    with Agent(local, Says(line, line.replace('"id": 1', '"id": 2'))) as agent:
        for _ in range(2):
            with pytest.raises(DeviceError, match="makes no sense: there is no such device"):
                _ = agent.info  # nor is it believed when asked again


def test_what_a_device_is_is_asked_once(local: Connection):
    says = Says(json.dumps({"id": 1, "ok": True, "result": dataclasses.asdict(PI)}))
    with Agent(local, says) as agent:
        assert agent.info == agent.info == PI
    assert says.heard == ['{"id": 1, "op": "hello", "params": {}}']


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"ok": True, "result": ["busy"]}, "makes no sense: .* no table"),
        (
            {"ok": False, "error": {"kind": "x", "message": "edgenas:\nall is well.\n"}},
            r"^here: edgenas: all is well\.$",
        ),
    ],
)
def test_no_states_and_refusals_of_many_lines(local: Connection, said: dict[str, Any], message: str):
    with Agent(local, Says(json.dumps({"id": 1, **said}))) as agent, pytest.raises(DeviceError, match=message):
        agent.status()


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [("no_space", CheckFailedError, ""), ("hash_mismatch", CheckFailedError, ""), ("last_key", CheckFailedError, ""),
     ("bad_name", InputError, ""), ("not_active", WentBackError, ""), ("new", DeviceError, ""),
     ("no_runtime", DeviceError, r" To install it: edgenas device setup here")],
)  # fmt: skip
def test_each_refusal_is_an_error_of_its_kind(local: Connection, kind: str, error: type[Exception], words: str):
    line = json.dumps({"id": 1, "ok": False, "error": {"kind": kind, "message": "no. "}})
    with Agent(local, Says(line)) as agent, pytest.raises(error, match=rf"^here: no\.{words}$") as caught:
        agent.call("x")
    assert type(caught.value) is error


def test_the_state_of_a_device_in_a_sentence(local: Connection):
    status = {"cpu_percent": 12.4, "temperature_c": None, "load_average": True, "throttled": True, "new": 1}
    with Agent(
        local, Says(json.dumps({"id": 1, "ok": True, "result": status}), '{"id": 2, "ok": true, "result": {}}')
    ) as it:
        assert it.health() == (
            "Now: its processor is 12% busy, its hardware slows it down: too hot, or too little power."
        )
        assert it.health() == ""


def test_silence_is_counted_from_the_last_line(local: Connection, monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(s=0.0)
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: clock.s))

    def says(*pieces: str) -> Says:
        process = Says(*pieces, ends="")
        receive, process.timeouts = process.receive, []  # type: ignore[attr-defined]

        def slowly(timeout_s: float) -> bytes:
            process.timeouts.append(timeout_s)  # type: ignore[attr-defined]
            if timeout_s < 40:
                raise TimeoutError
            clock.s += 40
            return receive(timeout_s)

        process.receive = slowly  # type: ignore[method-assign]
        return process

    told: list[dict[str, Any]] = []
    line = '{"id": 1, "event": "progress", "run": 1}\n'
    with Agent(local, says(line, line, line, '{"id": 1, "ok": true, "result": 7}\n')) as agent:
        assert agent.call("single", timeout_s=60, on_progress=told.append) == 7, "after 160 s"
    assert told == [{"run": 1}] * 3
    dribbling = says("{", "{", "{")
    with Agent(local, dribbling) as agent, pytest.raises(DeviceError, match="nothing for 60 s while asked to x"):
        agent.call("x", timeout_s=60)
    assert dribbling.timeouts == [60, 20], "bytes are no line"  # type: ignore[attr-defined]


def test_silence_death_and_refusal_are_told_apart(connection: Connection):
    mute = connection.start(["sh", "-c", "read line; read line"])
    with (
        Agent(connection, mute) as agent,
        pytest.raises(DeviceError, match=r"nothing for 0\.01 s while asked to status"),
    ):
        agent.call("status", timeout_s=0.01)
    doomed = connection.start(["sh", "-c", "read line; echo out of luck >&2; exit 1"])
    with Agent(connection, doomed) as agent, pytest.raises(DeviceError, match=r"ended while .* status.* out of luck"):
        agent.call("status")
    with open_agent(connection) as agent:
        with pytest.raises(DeviceError, match="no operation 'dance'"):
            agent.call("dance")
        with pytest.raises(DeviceError, match="unexpected keyword"):
            agent.call("status", wrong=1)
        assert agent.call("status")["memory_available_kb"] > 0, "it goes on"


def test_a_device_without_python_says_what_to_do(tmp_path: Path):
    with Board(tmp_path / "bare", path="/nowhere") as board:
        (board.folder / "bin").mkdir()
        for tool in ("sh", "cat", "mv", "rm", "mkdir", "dirname", "wc", "df", "test"):
            (board.folder / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
        config = board.folder / "sshd_config"
        config.write_text(config.read_text().replace("/nowhere", str(board.folder / "bin")))
        board.stop()
        board.start()
        with (
            connect(board.device()) as connection,
            pytest.raises(DeviceError, match=r"no Python 3\.8.*apt-get install"),
        ):
            open_agent(connection)
        levels = [(finding.level, finding.what) for finding in edgenas.device.findings(board.device())]
        assert levels[0][0] == "ok"
        assert levels[1][0] == "problem" and "no Python" in levels[1][1]


def test_a_python_that_is_named_but_missing(local: Connection, tmp_path: Path):
    device = Device("here", "local:", runtime=edgenas.device.Runtime(python="/no/python"), folder=str(tmp_path))
    with connect(device) as connection, pytest.raises(DeviceError, match="looked for /no/python"):
        open_agent(connection)
