"""A fleet of six boards, each a server with a work folder of its own; one is dead, one refuses what is sent."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgenas.deploy import Bundle, deployed
from edgenas.deploy.fleet import Outcome, Rollout, chosen, ship_to_all
from edgenas.deploy.keys import SigningKey, trust_key
from edgenas.device import Device
from edgenas.errors import InputError
from tests.board import Board
from tests.deploy.conftest import on_board

pytestmark = pytest.mark.slow
Rewritten = Callable[..., Bundle]
DEAD, STRANGE = "pi-3", "pi-5"


class Fleet:
    """pi-1 to pi-6, known to the project in the current folder."""

    def __init__(self, folder: Path) -> None:
        self.boards = {f"pi-{number}": Board(folder / f"pi-{number}") for number in range(1, 7)}
        for name, board in self.boards.items():
            device = on_board(board, folder / name / "work")
            Device(**{**device.__dict__, "name": name}).save()

    def live(self) -> dict[str, int]:
        found = {name: deployed(Device.load(name)) for name, board in self.boards.items() if name != DEAD}
        return {name: releases[0].release for name, releases in found.items() if releases}


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Callable[[str], SigningKey]) -> Iterator[Fleet]:
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as stack:
        fleet = Fleet(tmp_path / "boards")
        for board in fleet.boards.values():
            stack.enter_context(board)
        trust_key(Device.load(STRANGE), keys("stranger").public)
        fleet.boards[DEAD].stop()
        yield fleet


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.device: outcome.state for outcome in outcomes}


def test_canary_waves_stop_rule_and_catching_up(
    fleet: Fleet, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    devices = chosen("pi-*")
    assert [device.name for device in devices] == sorted(fleet.boards)
    first = rewritten(bundle, tmp_path)
    told: list[str] = []
    rollout = Rollout(canary=1, wave=2, max_failures=1)
    tried = states(ship_to_all(first, devices, "digits", rollout, told=lambda outcome: told.append(outcome.device)))
    others = dict.fromkeys(("pi-1", "pi-2", "pi-4", "pi-6"), "changed")
    assert tried == others | {DEAD: "off", STRANGE: "failed"}
    assert told[0] == "pi-1" and set(told[1:3]) == {"pi-2", DEAD}, "the canary alone, then two at a time"
    number = first.manifest.release
    assert fleet.live() == dict.fromkeys(others, number)

    # More than no failure: the last wave is not begun. What is live already is well.
    outcomes = ship_to_all(first, devices, "digits", Rollout(canary=1, wave=2, max_failures=0))
    assert states(outcomes) == dict.fromkeys(("pi-1", "pi-2", "pi-4"), "ok") | {
        DEAD: "off", STRANGE: "failed", "pi-6": "not tried"
    }  # fmt: skip
    refused = next(outcome for outcome in outcomes if outcome.device == STRANGE)
    assert "the bundle is not signed" in refused.detail and "Nothing was put live" in refused.detail
    assert "cannot be reached" in next(outcome for outcome in outcomes if outcome.device == DEAD).detail

    # The board that was off comes back: the same command catches up.
    fleet.boards[DEAD].start()
    caught = states(ship_to_all(first, devices, "digits", rollout))
    assert caught == dict.fromkeys(others, "ok") | {DEAD: "changed", STRANGE: "failed"}

    # A canary that fails ends it before anything else is touched.
    newer = rewritten(bundle, tmp_path)
    ended = states(ship_to_all(newer, chosen(f"{STRANGE},pi-6"), "digits", Rollout(canary=1, max_failures=5)))
    assert ended == {STRANGE: "failed", "pi-6": "not tried"}
    assert fleet.live()["pi-6"] == number


def test_a_canary_that_is_off_is_none_and_a_dry_run_changes_nothing(
    fleet: Fleet, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    newer = rewritten(bundle, tmp_path)
    told: list[str] = []
    devices = chosen(f"{DEAD},pi-1,pi-2")
    dry = Rollout(canary=1, dry_run=True)
    outcomes = ship_to_all(newer, devices, "digits", dry, told=lambda outcome: told.append(outcome.device))
    assert states(outcomes) == {DEAD: "off", "pi-1": "would change", "pi-2": "would change"}
    assert told == [DEAD, "pi-1", "pi-2"]
    assert fleet.live() == {}


def test_on_the_command_line(fleet: Fleet, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    newer = rewritten(bundle, tmp_path)

    def ships(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", "from edgenas.cli import main; main()", "ship", str(newer.folder), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)

    done = ships("--to", "pi-[13]", "--as", "digits", "--json")
    assert done.returncode == 3
    assert f"Off: {DEAD}. The same command catches up" in done.stderr
    said = json.loads(done.stdout)
    assert said["counts"]["changed"] == said["counts"]["off"] == 1
    done = ships("--to", f"pi-1,{STRANGE}", "--as", "digits", "--max-failures", "1")
    assert done.returncode == 4
    assert "1 ok, 1 failed" in done.stdout
    assert "1 of 2 devices failed" in done.stderr
    for words, message in (
        (("pi-1", "--to", "pi-*"), "Name a DEVICE, or several with --to"),
        ((), "Name a DEVICE"),
        (("--to", "pi-9"), "No device is called 'pi-9'. Did you mean"),
        (("--to", "pi-*", "--table", "t"), "is of one device"),
    ):
        done = ships(*words, "--as", "digits")
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


def test_a_rollout_that_cannot_be() -> None:
    for wrong in ({"canary": -1}, {"wave": 0}, {"max_failures": -1}, {"keep": 1}):
        with pytest.raises(InputError, match="cannot be"):
            Rollout(**wrong)
