"""A fleet of six boards, each a server with a work folder of its own; one is dead, one refuses what is sent."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgenas
from edgenas.deploy import Bundle, deployed
from edgenas.deploy.fleet import Outcome, Rollout, chosen, ship_to_all
from edgenas.deploy.keys import SigningKey, trust_key
from edgenas.device import Device
from edgenas.errors import DeviceError, InputError, UnreachableError
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
    assert told[0] == "pi-1" and set(told[1:3]) == {"pi-2", DEAD}, "as they come"
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

    def types(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", "from edgenas.cli import main; main()", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)

    def ships(*words: str) -> subprocess.CompletedProcess[str]:
        return types("ship", str(newer.folder), *words)

    done = ships("--to", "pi-[13]", "--as", "digits", "--json")
    assert done.returncode == 3
    assert f"Off: {DEAD}. The same command catches up" in done.stderr
    said = json.loads(done.stdout)
    assert said["counts"]["changed"] == said["counts"]["off"] == 1
    done = ships("--to", f"pi-1,{STRANGE}", "--as", "digits", "--max-failures", "1")
    assert done.returncode == 4
    assert "1 ok, 1 failed" in done.stdout
    assert "1 of 2 devices failed" in done.stderr
    done = types("deployed", "pi-[1236]", "--measure", "--json")
    assert done.returncode == 3
    assert f"{DEAD} cannot be reached" in done.stderr
    said = json.loads(done.stdout)
    (model,) = said["models"]
    assert (model["device"], model["name"], model["release"]) == ("pi-1", "digits", newer.manifest.release)
    assert model["latency_ms_now"]["median"] > 0
    assert list(said["unreached"]) == [DEAD]
    done = types("deployed", "pi-1,pi-2", "--to-app", "com.example.app")
    assert (done.returncode, done.stdout) == (2, "") and "is no phone" in done.stderr
    lost = {"name": "keyless", "identity_file": str(tmp_path / "gone")}
    Device(**{**Device.load("pi-2").__dict__, **lost}).save()
    done = types("deployed", "keyless,pi-1")
    assert done.returncode == 3 and "pi-1" in done.stdout, "what is wrong with one hides none of the others"
    assert "keyless: identity_file" in done.stderr and "does not exist" in done.stderr
    done = types("deployed", "pi-1,pi-2")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if "pi-1" in line]
    assert newer.manifest.study.name in line and "digits" in line
    for words, message in (
        (("pi-1", "--to", "pi-*"), "Name a DEVICE, or several with --to"),
        ((), "Name a DEVICE"),
        (("--to", "pi-9"), "No device is called 'pi-9'. Did you mean"),
        (("--to", "pi-*", "--table", "t"), "is of one device"),
    ):
        done = ships(*words, "--as", "digits")
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


@pytest.mark.long
def test_interrupted_it_says_what_became_of_each(
    fleet: Fleet, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    newer = rewritten(bundle, tmp_path)
    argv = [sys.executable, "-c", "from edgenas.cli import main; main()", "ship", str(newer.folder), "--as", "digits"]
    argv += ["--to", "pi-1,pi-2,pi-4", "--wave", "1", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shipping:
        assert shipping.stderr is not None
        assert any("pi-1: changed" in line for line in shipping.stderr)
        shipping.send_signal(signal.SIGINT)
        stdout, stderr = shipping.communicate(timeout=300)
    assert shipping.returncode == 130, stderr
    assert "stop at their next step" in stderr
    ended = {one["device"]: one["state"] for one in json.loads(stdout)["devices"]}
    assert ended.pop("pi-1") == "changed"
    live = fleet.live()
    for name, state in ended.items():
        assert state == ("changed" if name in live else "interrupted")
    assert ended["pi-4"] == "interrupted", "two shipments do not fit between a line and a signal"
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert set(fleet.live()) >= {"pi-1", "pi-2", "pi-4"}


class Shipping:
    """Takes the place of `ship`: notes when each begins and ends, and fails on some.

    Args:
        together: so many wait for each other before they end; None: nobody does.
        errors: what befalls a device, by name.
    """

    def __init__(self, together: int | None = None, **errors: Exception) -> None:
        self.spans: dict[str, tuple[float, float]] = {}
        self.most = self._now = 0
        self._counting = threading.Lock()
        self._barrier = None if together is None else threading.Barrier(together)
        self._errors = errors

    def __call__(self, bundle: Bundle, device: Device, name: str, **_: object) -> Any:
        began = time.monotonic()
        with self._counting:
            self._now += 1
            self.most = max(self.most, self._now)
        if self._barrier is not None and device.name != "b1":  # the canary
            self._barrier.wait(30)  # broken, and all fail, where they do not run at the same time
        time.sleep(0.02)
        with self._counting:
            self._now -= 1
        self.spans[device.name] = began, time.monotonic()
        if device.name in self._errors:
            raise self._errors[device.name]
        return SimpleNamespace(previous=None, release=1)

    def before(self, first: str, then: str) -> bool:
        """Whether one had ended when the other began."""
        return self.spans[first][1] <= self.spans[then][0]


def roll_out(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, shipping: Shipping, count: int, rollout: Rollout
) -> dict[str, str]:
    monkeypatch.setattr("edgenas.deploy.fleet.ship", shipping)
    devices = [Device(f"b{number}", "ssh://127.0.0.1") for number in range(1, count + 1)]
    return states(ship_to_all(bundle, devices, "net", rollout))


def test_the_canary_is_alone_and_waves_run_at_the_same_time(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    shipping = Shipping(together=3)
    outcome = roll_out(monkeypatch, bundle, shipping, 7, Rollout(canary=1, wave=3))
    assert set(outcome.values()) == {"changed"}
    assert shipping.most == 3
    assert all(shipping.before("b1", later) for later in ("b2", "b3", "b4")), "the canary alone"
    first, second = ("b2", "b3", "b4"), ("b5", "b6", "b7")
    assert all(shipping.before(one, other) for one in first for other in second), "one wave after the other"


def test_canaries_go_one_after_the_other(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    shipping = Shipping()
    roll_out(monkeypatch, bundle, shipping, 3, Rollout(canary=5, wave=4))
    assert shipping.most == 1, "more canaries than devices: all of them are"
    assert shipping.before("b1", "b2") and shipping.before("b2", "b3")
    none = Shipping()
    assert set(roll_out(monkeypatch, bundle, none, 4, Rollout(canary=0, wave=4)).values()) == {"changed"}
    assert none.most > 1


FAILS, OFF = DeviceError("it refuses"), UnreachableError("it is off")


@pytest.mark.parametrize(
    ("rollout", "bad", "expected"),
    [
        (Rollout(canary=1, wave=2, max_failures=0), {"b2": FAILS}, "changed failed changed - - -"),
        (Rollout(canary=1, wave=2, max_failures=0), {"b5": FAILS}, "changed changed changed changed failed -"),
        (
            Rollout(canary=1, wave=2, max_failures=1),
            {"b2": FAILS, "b4": FAILS},
            "changed failed changed failed changed -",
        ),
        (Rollout(canary=0, wave=2, max_failures=1), {"b1": FAILS, "b2": FAILS}, "failed failed - - - -"),
        (Rollout(canary=0, wave=6, max_failures=0), {"b1": FAILS}, "failed changed changed changed changed changed"),
        (Rollout(canary=1, wave=2, max_failures=9), {"b1": FAILS}, "failed - - - - -"),
        (Rollout(canary=2, wave=2, max_failures=9), {"b2": FAILS}, "changed failed - - - -"),
        (Rollout(canary=9, wave=2, max_failures=9), {"b6": FAILS}, "changed changed changed changed changed failed"),
        (Rollout(canary=2, wave=2), {"b1": OFF, "b2": OFF}, "off off changed changed changed changed"),
        (Rollout(canary=1, wave=2), {f"b{number}": OFF for number in range(1, 7)}, "off off off off off off"),
        (Rollout(canary=1, wave=2), {"b1": OFF, "b2": FAILS}, "off failed - - - -"),
        (Rollout(canary=1, wave=6), {"b3": ValueError("a fault")}, "changed changed failed changed changed changed"),
    ],
)
def test_when_a_rollout_stops(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, rollout: Rollout, bad: dict[str, Exception], expected: str
) -> None:
    outcome = roll_out(monkeypatch, bundle, Shipping(**bad), 6, rollout)
    assert list(outcome.values()) == [word.replace("-", "not tried") for word in expected.split()]


def test_which_devices_a_pattern_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    came = {path.stem for path in (Path(edgenas.__file__).parents[1] / "devices").glob("*.toml")}
    assert came == {"local"}, "this machine is the only device that comes with EdgeNAS"
    with pytest.raises(InputError, match=r"No device is called '\*'\. Known: local"):
        chosen("*")
    for name in ("pi-1", "pi-2", "here"):
        Device(name, "local:", folder=str(tmp_path / name)).save()
    expected = {
        "*": ["here", "pi-1", "pi-2"],
        "pi-*": ["pi-1", "pi-2"],
        "*,local": ["here", "pi-1", "pi-2", "local"],
        "local": ["local"],
        "pi-2,pi-*": ["pi-2", "pi-1"],
    }
    assert {pattern: [device.name for device in chosen(pattern)] for pattern in expected} == expected
    for nothing in ("phone-*", "pi-1,phone-*", "", "loc*"):
        with pytest.raises(InputError, match="No device is called"):
            chosen(nothing)


def test_a_rollout_that_cannot_be() -> None:
    for wrong in ({"canary": -1}, {"wave": 0}, {"max_failures": -1}, {"keep": 1}):
        with pytest.raises(InputError, match="cannot be"):
            Rollout(**wrong)
