"""The three jobs on an ARM64 board, emulated, over SSH; and models whose runtime dies there.

The tests run in order on one board. What a profile finds there says nothing of a real board's speed.
"""

import contextlib
import dataclasses
import re
from pathlib import Path

import numpy as np
import psutil
import pytest

import edgenas.files as files
from benchmarks.real.boards.conftest import User
from benchmarks.real.boards.entering import MODEL
from edgenas.deploy import Bundle, deployed, ship
from edgenas.device import Device, Runtime, connect, findings, fingerprint, open_agent
from edgenas.errors import CheckFailedError
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.profiling.profiler import profile
from edgenas.space import MobileSpace, mobile
from edgenas.strategy import Final, Limits, Settings, search
from edgenas.workflow import train

# The board's Python, with a runtime that runs into an instruction that no ARM processor knows, or reads address 0,
# when it loads a model whose path says so.
CRASHING = """
import ctypes
import mmap

try:
    from ai_edge_litert import interpreter
except ImportError:
    pass
else:
    load = interpreter.Interpreter.__init__

    def dying(self, model_path=None, **options):
        if "undefined" in str(model_path):
            page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(bytes(mmap.PAGESIZE))
            ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        if "address0" in str(model_path):
            ctypes.string_at(0)
        load(self, model_path=model_path, **options)

    interpreter.Interpreter.__init__ = dying
"""


def arm(user: User) -> Device:
    """The device that the tests have set up."""
    with contextlib.chdir(user.folder):
        return Device.load("arm")


def said(user: User) -> tuple[int, list[str]]:
    """What doctor finds, a line each with its level."""
    code, answer, _ = user.types("doctor", "arm")
    return code, [f"{found['level']}: {found['what']} {found['remedy'] or ''}" for found in answer["findings"]]


@pytest.fixture
def small_space(monkeypatch: pytest.MonkeyPatch) -> MobileSpace:
    """The space `tiny` with fewer choices: 8 networks that differ in their kernels, made of 10 layers. Emulated, the
    hundreds of layers of the whole space would take hours."""
    monkeypatch.setattr(mobile, "KERNELS", (3, 5))
    for name, options in (("EXPANSIONS", (1,)), ("SE_RATIOS", (0.0,)), ("DEPTHS", (1,)), ("WIDTHS", (0.25,))):
        monkeypatch.setattr(mobile, name, options)
    tiny = dataclasses.replace(mobile._PLANS["tiny"], stem_strides=(2,))
    monkeypatch.setitem(mobile._PLANS, "tiny", tiny)
    return MobileSpace("tiny", (8, 8, 1), 10)


def test_1_doctor_knows_the_board_and_what_it_lacks(user: User):
    url = f"ssh://{user.board.user}@127.0.0.1:{user.board.port}"
    user.gets("device", "add", "arm", url, "--identity-file", str(user.board.user_key))
    right = fingerprint(user.board.host_key_line)
    assert user.gets("device", "trust", "arm", "--fingerprint", right)["fingerprint"] == right
    code, lines = said(user)
    assert code == 4
    machine = rf"{MODEL}, aarch64, \d+ cores, .* GB"
    assert re.match(rf"ok: arm: {machine}, Debian GNU/Linux .*, glibc 2\.\d+, Python 3\.", lines[0])
    assert [line for line in lines if line.startswith("problem: ")] == [
        "problem: ai-edge-litert does not work there: not installed edgenas device setup arm"
    ]


def test_2_setup_sends_wheels_for_its_processor(user: User):
    code, answer, told = user.types("device", "setup", "arm", "--offline")
    assert code == 0, told
    assert re.search(r"sending ai_edge_litert-.*aarch64\.whl", told)
    code, lines = said(user)
    assert code == 0
    assert f"ok: ai-edge-litert {answer['version']} works " in lines


def test_3_a_profile_of_a_few_layers(user: User, small_space: MobileSpace):
    rng = np.random.default_rng(0)
    networks = list(dict.fromkeys(small_space.decode_codes(small_space.sample(rng, 200))))
    assert len(networks) == 8
    layers = small_space.layers()
    plan = Plan(layers, tuple(networks[:3]), tuple(networks[3:6]), tuple(networks[6:]), networks[0])
    with contextlib.chdir(user.folder):
        table = profile(arm(user), small_space, "int8", plan=plan)
        made = sorted(Path("latency_tables").iterdir())
    assert [path.name for path in made] == ["arm-tiny-8x8x1-int8-t1.json"]
    assert (table.source, table.identity.cpu, table.identity.delegate) == ("measured", MODEL, "XNNPACK")
    assert set(table.entries) == set(plan.layers) and len(plan.layers) == 10
    assert table.certificate is not None
    assert all(network.truth_ms > 0 for network in table.certificate.networks)


def test_4_a_search_with_that_table(user: User, small_space: MobileSpace):
    with contextlib.chdir(user.folder):
        (table,) = [path.stem for path in Path("latency_tables").iterdir()]
        settings = Settings(
            study="digits", data="digits", device="arm", table="", space="tiny", input_shape=(8, 8, 1), trials=3,
            strategy="random", limits=Limits(max_peak_memory_kb=200, coverage=0.5), final=Final(steps=400),
        )  # fmt: skip
        front = search(settings)
        assert 1 <= len(front) <= 3
        bundle = train("digits", "best")
    assert bundle.architecture.id == front.pick("best").id
    assert bundle.manifest.table is not None
    assert (bundle.manifest.table.name, bundle.manifest.table.identity.cpu) == (table, MODEL)
    assert bundle.manifest.predicted.latency_ms is not None
    assert all(gate.passed for gate in bundle.manifest.gates)


def test_5_ship_roll_back_and_list(user: User):
    """What the search found; signed, which the board's own cryptography checks."""
    (path,) = (str(path) for path in (user.folder / "studies" / "digits" / "bundles").iterdir() if path.is_dir())
    bundle = Bundle.load(Path(path))
    key = user.gets("key", "create")["key"]
    assert user.gets("key", "trust", "arm")["trusted"] == [key]
    code, _, told = user.types("ship", path, "arm", "--as", "digits")
    assert code == 4 and "the bundle is not signed" in told
    one = user.gets("sign", path)["release"]
    first = user.gets("ship", path, "arm", "--as", "digits")
    assert (first["active"], first["previous"]) == (one, None)
    assert ("signature", True) in [(check["name"], check["passed"]) for check in first["checks"]]
    assert first["agreement_on_device"] >= 0.98
    assert first["latency_ms"]["median"] > 0
    two = user.gets("sign", path)["release"]
    assert user.gets("ship", path, "arm", "--as", "digits")["active"] == two
    assert user.gets("rollback", "arm", "digits")["active"] == one
    assert user.gets("verify", "arm", "digits")["signed_by"] == key
    (model,) = user.gets("deployed", "arm")["models"]
    assert (model["name"], model["release"], model["previous"]) == ("digits", one, None)
    live = user.board.home / ".edgenas" / "models" / "digits" / "current" / "model.tflite"
    assert files.sha256(live) == bundle.manifest.files["model.tflite"]
    assert user.gets("key", "distrust", "arm", key, "--last")["trusted"] == []


def crashing(user: User) -> Device:
    """The same board with another Python, once it is set up."""
    folder = user.board.home / "crashing"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(CRASHING)
    (folder / "python").write_text(
        '#!/bin/sh\nPYTHONPATH="$HOME/crashing" exec "$HOME/.edgenas/venv/bin/python" "$@"\n'
    )
    (folder / "python").chmod(0o755)
    return dataclasses.replace(arm(user), runtime=Runtime(python="~/crashing/python"))


def test_6_a_model_that_kills_the_runtime_is_named_and_the_session_goes_on(user: User, bundle: Bundle):
    names = ("good", "undefined", "address0", "fine")
    with connect(crashing(user)) as connection, open_agent(connection) as agent:
        paths = [f"{connection.folder}/{name}.tflite" for name in names]
        for path in paths:
            connection.put(bundle.model_path, path)
        pid = agent.info.pid
        answer = agent.call("measure", models=paths, reference=paths[0], visits=3, timeout_s=300)
        causes = {index: why.partition(" (it may take ")[0] for index, why in answer["failed"].items()}
        assert causes == {"1": "killed by SIGILL", "2": "killed by SIGSEGV"}
        assert [model is None for model in answer["models"]] == [False, True, True, False]
        for path, name in ((paths[1], "SIGILL"), (paths[2], "SIGSEGV")):
            with pytest.raises(CheckFailedError, match=f"arm: the model's process was killed by {name}"):
                agent.call("single", model=path, runs=3)
        assert len(agent.call("single", model=paths[3], runs=3)["times_us"]) == 3
        assert agent.call("hello")["pid"] == pid, "it is the agent that was asked first"


@pytest.mark.parametrize(("name", "signal"), [("undefined", "SIGILL"), ("address0", "SIGSEGV")])
def test_7_a_bundle_that_kills_the_runtime_does_not_go_live(user: User, bundle: Bundle, name: str, signal: str):
    device = crashing(user)
    before = deployed(device)
    with pytest.raises(CheckFailedError, match=f"the model's process was killed by {signal}"):
        ship(bundle, device, name)
    assert deployed(device) == before
    assert not list((user.board.home / ".edgenas" / "models").glob("*/.staging-*"))


def test_8_a_runtime_that_dies_when_it_is_tried_is_a_problem_that_doctor_names(user: User):
    device = crashing(user)
    (user.board.home / "crashing" / "sitecustomize.py").write_text(CRASHING.replace('"address0" in', '"None" in'))
    (line,) = [found.what for found in findings(device) if found.level == "problem"]
    assert line == "ai-edge-litert does not work there: killed by SIGSEGV"


def test_9_a_board_that_was_off_is_the_same_and_leaves_nothing(user: User, tmp_path: Path):
    before = user.gets("deployed", "arm")
    user.board.stop()
    assert str(user.board.folder) not in Path("/proc/mounts").read_text()
    assert not [p for p in psutil.process_iter(["cmdline"]) if "/etc/board/sshd_config" in (p.info["cmdline"] or [])]
    assert not Path("/proc/sys/fs/binfmt_misc/edgenas-aarch64").exists()
    user.board.start()
    assert user.gets("deployed", "arm") == before
    assert [model["name"] for model in before["models"]] == ["digits"]
