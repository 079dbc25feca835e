"""The main job as a user does it, command by command, against a real OpenSSH server with an environment of its own.

One board, one profile, one study and one training serve all tests here; they run in order. The board's agents are on a
virtual machine (tests/virtual): what a profile finds there follows from a formula.
"""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgenas.architecture import Architecture, Block, Dense, Head, MBConv
from edgenas.deploy import training
from edgenas.deploy.gates import GATES
from edgenas.device import fingerprint
from edgenas.latency.profiling.planning import plan_profile
from edgenas.latency.table import LatencyTable
from edgenas.space import MobileSpace
from edgenas.strategy import searching
from tests.board import Board, on_virtual_machine
from tests.main_job.small import NETWORKS, shrink
from tests.strategy.conftest import Formula
from tests.terminal import Terminal
from tests.wheelhouse import PIP

SPACE = ("--space", "tiny", "--input", "28x28x1", "--precision", "int8", "--threads", "1")
SEARCH = ("search", "--study", "digits", "--data", "digits", "--policy", "fit", "--device", "board", *SPACE[:6])
LIMIT_MS = 0.15
STEPS = 300
FINAL = ("--final-steps", str(STEPS))


class User(Terminal):
    """A user at a terminal, in a project's folder, with a board."""

    def __init__(self, folder: Path, board: Board) -> None:
        super().__init__(folder)
        self.board = board

    def logins(self) -> int:
        return (self.board.folder / "sshd.log").read_text().count("Accepted publickey")


@pytest.fixture(scope="module", autouse=True)
def small_world() -> Iterator[None]:
    """A small space; a search whose accuracies are a formula's; and one final training, however often one is asked."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr(searching, "TrainEvaluator", lambda *_: Formula())
        trained: dict[tuple[str, int], Any] = {}
        train = training.train

        def train_once(architecture: Architecture, dataset: Any, indices: Any, recipe: Any, steps: int, seed: int,
                       **how: Any) -> Any:  # fmt: skip
            key = (str(architecture), steps)
            if key not in trained:
                trained[key] = train(architecture, dataset, indices, recipe, steps, seed, **how)
            return trained[key]

        patch.setattr(training, "train", train_once)
        yield


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with Board(tmp_path_factory.mktemp("board"), environment=PIP) as board:
        yield User(tmp_path_factory.mktemp("project"), board)


def test_1_a_device_is_added_trusted_and_set_up(user: User) -> None:
    url = f"ssh://{user.board.user}@127.0.0.1:{user.board.port}"
    user.gets("device", "add", "board", url, "--identity-file", str(user.board.user_key))
    user.is_refused(3, "edgenas device trust board", "device", "setup", "board")
    user.is_refused(4, "SHA256:", "device", "trust", "board", "--fingerprint", "SHA256:" + "A" * 43)
    right = fingerprint(user.board.host_key_line)
    assert user.gets("device", "trust", "board", "--fingerprint", right)["fingerprint"] == right
    done = user.types("doctor", "board")
    assert done.returncode == 4
    assert "edgenas device setup board" in done.stdout
    assert user.gets("device", "setup", "board")["version"]
    on_virtual_machine(user.board.home / ".edgenas")
    assert user.types("doctor", "board").returncode == 0


def test_2_profile_goes_on_after_a_kill_and_uses_one_connection(user: User) -> None:
    argv = [sys.executable, "-m", "tests.main_job.small", "3", "profile", "board", *SPACE, "--quick"]
    assert subprocess.run(argv, cwd=user.folder, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    journal = user.folder / ".edgenas/profiles/board-tiny-28x28x1-int8-t1/measured.jsonl"
    measured = [json.loads(line) for line in journal.read_text().splitlines() if '"batch"' in line]
    assert len(measured) == 3
    # The table is to hold what was measured before the kill: these ratios, which the device would not give again.
    lines = measured[2]["lines"]  # whole networks come first, then layers
    for line in lines:
        line["value"] *= 1.003
    kept = journal.read_text().splitlines()[:-1]
    journal.write_text("".join(f"{line}\n" for line in [*kept, json.dumps(measured[2])]))
    before = user.logins()
    found = user.gets("profile", "board", *SPACE, "--quick")
    assert user.logins() == before + 1
    made = json.loads(next((user.folder / "latency_tables").glob("*.json")).read_text())
    assert made["provenance"]["sessions"] == 2
    for line in lines:
        cost_us = line["value"] * made["reference"]["us"] - made["empty_us"]
        assert made["entries"][line["key"]][0] == pytest.approx(max(cost_us, 0.01), abs=1e-3)
    assert found["entries"] == len(made["entries"]) == len(plan_profile(MobileSpace("tiny", (28, 28, 1), 10)).layers)
    certificate = found["certificate"]
    assert (certificate["networks"], certificate["doubt"]) == (NETWORKS[2], None)
    assert certificate["spearman"] > 0.99
    assert certificate["mape"] < 0.01
    assert (made["provenance"]["interrupted"], made["provenance"]["drifted"]) == (0, 0), "nothing real was measured"


def test_3_search_keeps_its_limit(user: User) -> None:
    name = user.gets("table", "list")["tables"][0]["table"]
    assert user.gets("table", "show", name)["source"] == "measured"
    words = (*SEARCH, "--trials", "4", "--max-latency-ms", str(LIMIT_MS), "--seed", "3", *FINAL)
    assert user.gets(*words, "--dry-run")["trials_done"] == 0
    assert not (user.folder / "studies").exists()
    found = user.gets(*words)
    assert found["trials"]["complete"] == 4
    for point in found["front"]:
        assert point["latency_interval_ms"][1] <= LIMIT_MS
        assert Architecture.parse(point["notation"]).id == point["id"]
    assert user.gets("pareto", "digits")["front"] == found["front"]
    assert (user.folder / "studies" / "digits" / "front.png").stat().st_size > 1000
    user.gets("report", "digits")
    assert "<svg" not in (user.folder / "studies" / "digits" / "report.html").read_text()[:100]


def test_4_train_opens_the_test_split_once(user: User) -> None:
    user.is_refused(2, "no point 'feedfacecafe'", "train", "digits", "--pick", "feedfacecafe")
    key = user.gets("key", "create")["key"]
    trained = user.gets("train", "digits", "--pick", "best")
    assert trained["test_accuracy"] > 0.95
    assert trained["signed_by"] == key
    gates = {gate["name"]: gate for gate in trained["gates"]}
    assert list(gates) == list(GATES)
    assert all(gate["passed"] for gate in gates.values())
    assert gates["limits"]["figures"]["latency_ms"] <= gates["limits"]["figures"]["max_latency_ms"] == LIMIT_MS
    opened = [
        line for line in (user.folder / "studies/digits/ledger.jsonl").read_text().splitlines() if "test_opened" in line
    ]
    assert len(opened) == 1
    curves = user.folder / "studies/digits/training" / Path(trained["bundle"]).name
    assert (curves / "curves.csv").read_text().splitlines()[-1].startswith(f"last training,{STEPS},")
    assert (curves / "curves.png").stat().st_size > 1000
    user.gets("report", "digits")
    assert "How it was trained" in (user.folder / "studies/digits/report.html").read_text()
    said = f"is another one: it was trained for {STEPS} steps; it has no float32 file. To train it anew, remove it"
    user.is_refused(2, said, "train", "digits", "--pick", "best", "--with-float32", "--steps", "3")


def bundle(user: User) -> str:
    return str(next((user.folder / "studies/digits/bundles").glob("*.edgenas")))


def test_5_ship_roll_back_and_list(user: User) -> None:
    user.gets("key", "trust", "board")
    first = user.gets("ship", bundle(user), "board", "--as", "digits")
    assert first["active"] == first["release"]
    assert ("signature", True) in [(check["name"], check["passed"]) for check in first["checks"]]
    assert first["agreement_on_device"] >= 0.98
    assert first["latency_ms"]["median"] == pytest.approx(first["predicted_ms"], rel=0.02)
    assert first["promise"] == "kept"
    second = user.gets("sign", bundle(user))["release"]
    assert user.gets("ship", bundle(user), "board", "--as", "digits")["active"] == second
    assert user.gets("rollback", "board", "digits")["active"] == first["active"]
    (model,) = user.gets("deployed", "board", "--measure")["models"]
    assert (model["name"], model["release"]) == ("digits", first["active"])
    assert model["latency_ms_now"]["median"] == pytest.approx(first["latency_ms"]["median"], rel=0.01)
    user.is_refused(4, "is another one", "verify", "board", "digits", "--bundle", bundle(user))
    (user.folder / "bad.tflite").write_bytes(b"TFL3 but not really" * 50)
    user.is_refused(4, "not a valid", "measure", "bad.tflite", "board")
    live = user.board.home / ".edgenas" / "models" / "digits" / "current" / "model.tflite"
    measured = user.gets("measure", str(live), "board", "--kernels")
    assert measured["latency_ms"]["p90"] >= measured["latency_ms"]["median"] > 0
    assert any("DWConv" in kernel["name"] for kernel in measured["kernels"])


def test_5_two_precisions_where_the_tables_say_that_it_pays(user: User) -> None:
    words = ("train", "digits", "--pick", "best", "--precision", "mixed", "--again")
    user.is_refused(2, "--precision float32", *words)
    (path,) = (user.folder / "latency_tables").glob("*.json")
    float32 = blocks_are_faster(LatencyTable.load(path))
    beside = path.with_name(path.name.replace("int8", "float32"))
    float32.save(beside)
    try:
        user.is_refused(4, "no certificate is for a network of two precisions", *words)
        trained = user.gets(*words, "--allow", "limits")
        assert trained["precision"] == "mixed"
        assert trained["float_layers"]
        shipped = user.gets("ship", trained["bundle"], "board", "--as", "two", "--precision", "mixed")
        assert (shipped["active"], shipped["promise"]) == (trained["release"], "unbacked")
        assert shipped["agreement_on_device"] >= 0.98
    finally:
        beside.unlink()  # those that follow have one table


def blocks_are_faster(table: LatencyTable) -> LatencyTable:
    """As if it were float32's, where blocks take a fifth and what follows them a thousand times as long.

    The input's scaling stays: what a change of precision costs is reckoned by it.
    """

    def times(block: Block) -> float:
        return 0.2 if isinstance(block, MBConv) else 1000 if isinstance(block, Head | Dense) else 1

    entries = {
        layer: dataclasses.replace(entry, us=entry.us * times(layer.block)) for layer, entry in table.entries.items()
    }
    identity = dataclasses.replace(table.identity, precision="float32")
    return dataclasses.replace(table, identity=identity, entries=entries)


def test_6_bad_input_gets_one_line(user: User) -> None:
    limit = ("--max-latency-ms", str(LIMIT_MS), "--seed")
    user.is_refused(2, "seed was 3, now 4", *SEARCH, "--trials", "4", *limit, "4", *FINAL)
    impossible = ("search", "--study", "other", *SEARCH[3:], "--max-latency-ms", "0.0001")
    user.is_refused(2, "nearest reachable value is", *impossible)
    assert not (user.folder / "studies" / "other").exists()
    precise = [word.replace("int8", "float32") for word in SEARCH]
    user.is_refused(2, "--precision float32", *precise[:2], "f32", *precise[3:])
    table = next((user.folder / "latency_tables").glob("*.json"))
    user.is_refused(2, "for the device board, wanted is local", "search", "--study", "l", "--data", "digits",
                    "--device", "local", "--input", "28x28x1", "--table", table.stem)  # fmt: skip
    copy = user.folder / "latency_tables" / "copy.json"
    shutil.copy(table, copy)
    user.is_refused(2, "Choose one with --table", *SEARCH[:2], "two", *SEARCH[3:])
    copy.write_text(copy.read_text().replace('"us": ', '"us": 1', 1))
    user.is_refused(2, "is damaged", "table", "show", "copy")
    copy.unlink()


def test_7_wrong_key_no_python_and_a_changed_host_key(user: User) -> None:
    device = user.folder / "devices" / "board.toml"
    right = device.read_text()
    stranger = user.board.make_key("stranger")
    device.write_text(right.replace(str(user.board.user_key), str(stranger)))
    user.is_refused(3, "refuses the login", "deployed", "board")
    device.write_text(right + '\n[runtime]\npython = "/nowhere/python3"\n' if "[runtime]" not in right else
                      right.replace("[runtime]", '[runtime]\npython = "/nowhere/python3"'))  # fmt: skip
    user.is_refused(3, "no Python", "profile", "board", *SPACE)
    device.write_text(right)
    user.board.regenerate_host_key()
    user.is_refused(3, "SHA256:", "deployed", "board")
