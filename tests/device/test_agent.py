"""The agent: its conversation, models it can lose, and its end."""

import ast
import dataclasses
import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import edgenas.device
from edgenas.device import Agent, Connection, Device, connect, open_agent, shares_host
from edgenas.device.session import agent_program
from edgenas.errors import CheckFailedError, DeviceError, InputError
from tests.board import Board, Proxy
from tests.device.conftest import gone

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
    for _ in range(2):
        with open_agent(connection) as agent:
            assert agent.call("status")["memory_available_kb"] > 0
        sent = list(Path(connection.folder, "agents").iterdir())
        assert len(sent) == 1
    assert len({path.stat().st_mtime_ns for path in sent}) == 1


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


def test_measure_in_interleaved_rounds(local: Connection, models: Path):
    seen: list[dict[str, int]] = []
    names = [str(models / f"conv{filters}.tflite") for filters in (1, 4, 8)] * 11
    with open_agent(local) as agent:
        answer = agent.call("measure", models=names, reference=names[1], visits=7, seed=3, on_progress=seen.append)
    assert answer["failed"] == {}
    counts = [len(model["visits_us"]) for model in answer["models"]]
    rounds = len(seen)
    assert [line["round"] for line in seen] == list(range(1, rounds + 1))
    assert rounds == 21 or counts == [7] * 33, "it goes on until each has its visits, or three times as long"
    assert answer["visits"] - answer["interrupted"] - answer["drifted"] == sum(counts)
    # At the start, after 16 models, after 32, after the last.
    assert rounds * 2 <= len(answer["reference_us"]) <= rounds * 4
    for model in answer["models"]:
        visits, around = np.array(model["visits_us"]), np.array(model["around_us"])
        assert visits.shape == around.shape
        assert (visits > 0).all() and (visits < 1e5).all()
        assert (around > 0.9 * min(answer["reference_us"])).all() and (around < 1.1 * max(answer["reference_us"])).all()
        assert 1 <= model["repeats"] <= 200
        assert model["first_us"] > 0 and model["load_us"] > 0
    # How often is chosen once, by visits of a moment that may have been far slower: some models may get it wrong.
    short = [model for model in answer["models"] if model["repeats"] * np.sum(model["visits_us"]) < 100 * rounds / 3]
    assert len(short) <= 11, "a visit lasts about 200 us or more"


def test_a_reference_slower_than_expected_taints_every_visit(local: Connection, models: Path):
    names = [str(models / f"conv{filters}.tflite") for filters in (1, 8)]
    with open_agent(local) as agent:
        answer = agent.call("measure", models=names, reference=names[0], visits=3, expected_us=0.001)
    assert [model["visits_us"] for model in answer["models"]] == [[], []]
    assert answer["drifted"] + answer["interrupted"] == answer["visits"] == 18


def test_what_is_no_model_is_named_and_the_others_are_measured(local: Connection, models: Path, tmp_path: Path):
    good = str(models / "conv4.tflite")
    (tmp_path / "bad.tflite").write_bytes(b"no model" * 100)
    (tmp_path / "half.tflite").write_bytes(Path(good).read_bytes()[:600])
    paths = [str(tmp_path / "bad.tflite"), good, str(tmp_path / "half.tflite"), str(tmp_path / "none.tflite")]
    with open_agent(local) as agent:
        answer = agent.call("measure", models=paths, reference=good, visits=3)
        assert sorted(answer["failed"]) == ["0", "2", "3"]
        assert all(reason.startswith("invalid model: ") for reason in answer["failed"].values())
        assert [model is None for model in answer["models"]] == [True, False, True, True]
        with pytest.raises(DeviceError, match="the reference model cannot be measured"):
            agent.call("measure", models=[good], reference=paths[0], visits=3)
        with pytest.raises(CheckFailedError, match="not a valid"):
            agent.call("single", model=paths[0], runs=3)


def _killing(agent: Agent, doomed: Callable[[psutil.Process], bool], most: int = 1000) -> threading.Event:
    """Kill each child of the agent that is doomed, until the event is set."""
    stop = threading.Event()
    parent = psutil.Process(agent.info.pid)

    def kill() -> None:
        left = most
        while left and not stop.wait(0.002):
            try:
                children = parent.children()
            except psutil.NoSuchProcess:
                return  # the agent has ended
            for child in children:
                try:
                    if doomed(child):
                        child.send_signal(11)
                        child.wait(5)
                        left -= 1
                except (psutil.Error, OSError):
                    continue

    threading.Thread(target=kill, daemon=True).start()
    return stop


def test_a_model_that_kills_its_process_is_found_and_the_others_are_measured(
    local: Connection, models: Path, tmp_path: Path
):
    """Death comes from outside, to every process that has this model mapped: as if the model had done it."""
    killer = tmp_path / "killer.tflite"
    killer.write_bytes((models / "conv8.tflite").read_bytes())
    good = [str(models / f"conv{filters}.tflite") for filters in (1, 4, 8)]

    def loaded(child: psutil.Process) -> bool:
        return str(killer) in Path(f"/proc/{child.pid}/maps").read_text()

    with open_agent(local) as agent:
        stop = _killing(agent, loaded)
        answer = agent.call("measure", models=[*good, str(killer), *good], reference=good[0], visits=200)
        stop.set()
    assert answer["failed"] == {"3": "killed by SIGSEGV"}
    assert [model is None for model in answer["models"]] == [False, False, False, True, False, False, False]
    assert all(model["visits_us"] for model in answer["models"] if model)


def test_a_child_lost_by_accident_costs_no_model(local: Connection, models: Path):
    good = [str(models / f"conv{filters}.tflite") for filters in (1, 4, 8)]
    with open_agent(local) as agent:
        agent.call("measure", models=good, reference=good[0], visits=1)  # the runtime is imported now
        stop = _killing(agent, lambda child: True, most=1)
        answer = agent.call("measure", models=good, reference=good[0], visits=200)
        stop.set()
        assert answer["failed"] == {}
        assert all(model["visits_us"] for model in answer["models"])
        stop = _killing(agent, lambda child: True)
        with pytest.raises(CheckFailedError, match="killed by SIGSEGV"):
            agent.call("single", model=good[0], runs=1_000_000)
        stop.set()


def test_single_and_infer(local: Connection, models: Path, tmp_path: Path):
    model = str(models / "conv4.tflite")
    samples = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
    np.save(tmp_path / "in.npy", samples)
    with open_agent(local) as agent:
        answer = agent.call("single", model=model, runs=20, warmup=2)
        assert len(answer["times_us"]) == 20
        assert min(answer["times_us"]) > 0
        assert answer["first_us"] > 0 and answer["load_us"] > 0 and answer["peak_rss_growth_kb"] > 0
        assert answer["inputs"] == [{"shape": [1, 8, 8, 1], "dtype": "float32", "scale": 0.0, "zero_point": 0}]
        assert answer["outputs"][0]["shape"] == [1, 4]
        paths = {"model": model, "inputs": str(tmp_path / "in.npy"), "outputs": str(tmp_path / "out.npy")}
        assert agent.call("infer", **paths)["rows"] == 5
        outputs = np.load(tmp_path / "out.npy")
        assert outputs.shape == (5, 4)
        np.save(tmp_path / "in.npy", samples[2:3])
        agent.call("infer", **paths)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), outputs[2:3])
        np.save(tmp_path / "in.npy", samples[:, :4])
        with pytest.raises(CheckFailedError, match=r"takes \[8, 8, 1\], the samples are \[4, 8, 1\]"):
            agent.call("infer", **paths)


def _busy(connection: Connection, model: str) -> tuple[Agent, threading.Thread, list[BaseException], int]:
    """An agent in the middle of a long operation, and the child that does it."""
    agent = open_agent(connection)
    caught: list[BaseException] = []
    working = threading.Event()
    pid = agent.info.pid

    def work() -> None:
        try:
            agent.call("single", model=model, runs=100_000_000, on_progress=lambda line: working.set())
        except DeviceError as error:
            caught.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert working.wait(30)
    return agent, thread, caught, psutil.Process(pid).children()[0].pid


def test_the_agent_ends_with_its_connection_in_the_middle_of_work(local: Connection, models: Path):
    agent, thread, _, child = _busy(local, str(models / "conv1.tflite"))
    pid = agent.info.pid
    agent.close()
    assert gone(pid, 5) and gone(child, 5)
    thread.join(10)


def test_a_killed_agent_takes_its_child_along_and_is_reported(local: Connection, models: Path):
    agent, thread, caught, child = _busy(local, str(models / "conv1.tflite"))
    psutil.Process(agent.info.pid).kill()
    thread.join(10)
    assert "the agent ended while asked to single" in str(caught[0])
    assert gone(child, 5)
    with pytest.raises(DeviceError, match="the agent ended"):
        agent.call("status")
    agent.close()


def test_a_cut_link_ends_the_agent(board: Board, tmp_path: Path):
    with (
        Proxy(board.port) as proxy,
        connect(board.device(port=proxy.port, folder=str(tmp_path / "work"))) as connection,
    ):
        agent = open_agent(connection)
        pid = agent.info.pid
        assert psutil.pid_exists(pid)
        proxy.cut()
        with pytest.raises(DeviceError, match=r"board: .*(link broke|agent ended)"):
            agent.call("status")
        assert gone(pid, 5)


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
    process = local.start(["sh", "-c", 'read line; echo "$1"; read line', "sh", said])
    with Agent(local, process) as agent, pytest.raises(DeviceError, match=message):
        _ = agent.info


@pytest.mark.parametrize(
    "wrong",
    [{"python": "3.x"}, {"python": "3.12+"}, {"python": "2.7.1"}, {"bits": 7}, {"cores": 0}, {"memory_total_kb": -1}],
)
def test_a_device_that_cannot_be_is_refused(local: Connection, wrong: dict[str, Any]):
    with open_agent(local) as agent:
        said = dataclasses.asdict(agent.info) | wrong
    line = json.dumps({"id": 1, "ok": True, "result": said})
    process = local.start(["sh", "-c", 'read line; echo "$1"; read line', "sh", line])
    with Agent(local, process) as agent, pytest.raises(DeviceError, match="makes no sense: there is no such device"):
        _ = agent.info
    assert agent._info is None, "nor is it believed when asked again"


def test_no_states_and_refusals_of_many_lines(local: Connection):
    for said, message in (
        ({"ok": True, "result": ["busy"]}, "makes no sense: .* no table"),
        (
            {"ok": False, "error": {"kind": "x", "message": "edgenas:\nall is well.\n"}},
            r"^here: edgenas: all is well\.$",
        ),
    ):
        line = json.dumps({"id": 1, **said})
        process = local.start(["sh", "-c", 'read line; printf "%s\\n" "$1"; read line', "sh", line])
        with Agent(local, process) as agent, pytest.raises(DeviceError, match=message):
            agent.status()


def test_silence_death_and_refusal_are_told_apart(connection: Connection):
    mute = connection.start(["sh", "-c", "read line; read line"])
    with (
        Agent(connection, mute) as agent,
        pytest.raises(DeviceError, match=r"nothing for 0\.5 s while asked to status"),
    ):
        agent.call("status", timeout_s=0.5)
    doomed = connection.start(["sh", "-c", "read line; echo out of luck >&2; exit 1"])
    with Agent(connection, doomed) as agent, pytest.raises(DeviceError, match=r"ended while .* status.* out of luck"):
        agent.call("status")
    with open_agent(connection) as agent:
        with pytest.raises(DeviceError, match="no operation 'dance'"):
            agent.call("dance")
        with pytest.raises(DeviceError, match="unexpected keyword"):
            agent.call("status", wrong=1)
        assert agent.call("status")["cpu_percent"] >= 0, "it goes on"


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


def test_progress_lines_are_json_numbers_only(local: Connection, models: Path):
    """What a library prints to stdout does not reach the conversation."""
    with open_agent(local) as agent:
        answer = agent.call("measure", models=[], reference=str(models / "conv1.tflite"), visits=2)
    assert answer["models"] == []
    json.dumps(answer, allow_nan=False)


def test_a_lock_ends_with_its_holder(local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The system's own lock: whatever way the holder ends."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with open_agent(local) as first, open_agent(local) as second:
        first.lock()
        first.lock()  # it is ours already
        with pytest.raises(DeviceError, match=r"the device is being measured by .+@.+ \(process \d+ there\) since 20"):
            second.lock()
        pid = first.info.pid
        os.kill(pid, signal.SIGKILL)
        assert gone(pid, 30)
        end = time.monotonic() + 30
        while True:
            try:
                second.lock()
                break
            except DeviceError:
                assert time.monotonic() < end
                time.sleep(0.05)


def test_a_holder_whose_host_fell_silent_lets_go(local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As with a cable that was pulled: its stdin stays open, and nobody says a word any more."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("edgenas.device.session._LEASE_S", 3.0)
    with open_agent(local) as first, open_agent(local) as second:
        first.lock()
        time.sleep(4)
        with pytest.raises(DeviceError, match="the device is being measured by"):
            second.lock()
        with monkeypatch.context() as silent:
            silent.setattr(first._closed, "wait", lambda _: True)
            time.sleep(2)
            end = time.monotonic() + 30
            while True:
                try:
                    second.lock()  # waits for the rest of the lease; a last beat may have been late
                    break
                except DeviceError:
                    assert time.monotonic() < end
        with pytest.raises(DeviceError, match="the agent ended"):
            first.call("status")


def test_a_lock_file_of_somebody_else_is_no_way_in(local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "tmp" / "edgenas-device.lock").symlink_to(tmp_path / "precious")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with open_agent(local) as agent, pytest.raises(DeviceError):
        agent.lock()
    assert (tmp_path / "precious").read_text() == "kept"


def _archive(path: Path, **files: bytes) -> str:
    with zipfile.ZipFile(path, "w") as content:
        for name, data in files.items():
            content.writestr(name, data)
    return str(path)


def test_many_files_in_one(local: Connection, tmp_path: Path):
    folder = tmp_path / "many" / "files"
    with open_agent(local) as agent:
        archive = _archive(tmp_path / "a.zip", **{"1.tflite": b"one", "2.tflite": b"two" * 100})
        assert agent.call("unpack", archive=archive, folder=str(folder)) == {"files": 2}
        assert (folder / "2.tflite").read_bytes() == b"two" * 100
        assert not Path(archive).exists()
        for name in ("../out", "/tmp/out", "a/b", ".hidden", "a\nb"):
            with pytest.raises((InputError, DeviceError)):
                agent.call("unpack", archive=_archive(tmp_path / "b.zip", **{name: b"x"}), folder=str(folder))
        (tmp_path / "c.zip").write_bytes(b"no archive")
        with pytest.raises(DeviceError):
            agent.call("unpack", archive=str(tmp_path / "c.zip"), folder=str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["1.tflite", "2.tflite"]
    assert not (tmp_path / "many" / "out").exists()
