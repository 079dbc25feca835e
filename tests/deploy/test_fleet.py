"""Fleets of devices: a few first, then waves, and a stop before too many have failed.

Agents answer in this process but in one test; a device that is off is one whose port nobody listens on.
"""

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable
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
from tests.deploy.inside import Inside
from tests.terminal import Terminal
from tests.waiting import free_port, until

Rewritten = Callable[..., Bundle]
DEAD, STRANGE = "pi-3", "pi-5"


class Fleet:
    """pi-1 to pi-6, known to the project in the current folder; one is off, one trusts a stranger's key alone."""

    def __init__(self, folder: Path, stranger: SigningKey) -> None:
        self._folder = folder
        for number in range(1, 7):
            self.add(f"pi-{number}")
        Device(DEAD, f"ssh://root@127.0.0.1:{free_port()}").save()
        trust_key(Device.load(STRANGE), stranger.public)

    def add(self, name: str) -> None:
        Device(name, "local:", folder=str(self._folder / name)).save()

    def live(self) -> dict[str, int]:
        found = {name: deployed(Device.load(name)) for name in (f"pi-{number}" for number in range(1, 7))
                 if Device.load(name).address.kind == "local"}  # fmt: skip
        return {name: releases[0].release for name, releases in found.items() if releases}


@pytest.fixture
def fleet(inside: Inside, tmp_path: Path, keys: Callable[[str], SigningKey]) -> Fleet:
    return Fleet(tmp_path / "boards", keys("stranger"))


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.device: outcome.state for outcome in outcomes}


def test_boards_over_ssh_with_agents_of_their_own(board: Board, bundle: Bundle, tmp_path: Path) -> None:
    with Board(tmp_path / "other") as other:
        works = [tmp_path / f"work-{number}" for number in (1, 2)]
        first, second = (on_board(one, work) for one, work in zip((board, other), works, strict=True))
        off = on_board(board, tmp_path / "work-3", free_port())
        named = [dataclasses.replace(one, name=f"pi-{number}") for number, one in enumerate((first, second, off), 1)]
        outcomes = ship_to_all(bundle, named, "digits", Rollout(canary=1, wave=2))
    assert states(outcomes) == {"pi-1": "changed", "pi-2": "changed", "pi-3": "off"}
    assert "cannot be reached" in outcomes[2].detail
    assert all((work / "models" / "digits" / "current" / "model.tflite").is_file() for work in works)


def test_canary_waves_stop_rule_and_catching_up(
    fleet: Fleet, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    devices = chosen("pi-*")
    assert [device.name for device in devices] == [f"pi-{number}" for number in range(1, 7)]
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
    fleet.add(DEAD)
    caught = states(ship_to_all(first, chosen("pi-*"), "digits", rollout))
    assert caught == dict.fromkeys(others, "ok") | {DEAD: "changed", STRANGE: "failed"}

    # A canary that fails ends it before anything else is touched.
    newer = rewritten(bundle, tmp_path)
    ended = states(ship_to_all(newer, chosen(f"{STRANGE},pi-6"), "digits", Rollout(canary=1, max_failures=5)))
    assert ended == {STRANGE: "failed", "pi-6": "not tried"}
    assert fleet.live()["pi-6"] == number


def test_a_canary_that_is_off_is_none_and_a_dry_run_changes_nothing(fleet: Fleet, bundle: Bundle) -> None:
    told: list[str] = []
    devices, dry = chosen(f"{DEAD},pi-1,pi-2"), Rollout(canary=1, dry_run=True)
    outcomes = ship_to_all(bundle, devices, "digits", dry, told=lambda outcome: told.append(outcome.device))
    assert states(outcomes) == {DEAD: "off", "pi-1": "would change", "pi-2": "would change"}
    assert told == [DEAD, "pi-1", "pi-2"]
    assert fleet.live() == {}


def test_shipping_on_the_command_line(fleet: Fleet, bundle: Bundle, tmp_path: Path) -> None:
    user, ships = Terminal(tmp_path), ("ship", str(bundle.folder), "--as", "digits")
    done = user.types(*ships, "--to", "pi-[13]", "--json")
    assert done.returncode == 3
    assert f"Off: {DEAD}. The same command catches up" in done.stderr
    said = json.loads(done.stdout)
    assert said["counts"]["changed"] == said["counts"]["off"] == 1
    done = user.types(*ships, "--to", f"pi-1,{STRANGE}", "--max-failures", "1")
    assert done.returncode == 4
    assert "1 ok, 1 failed" in done.stdout
    assert "1 of 2 devices failed" in done.stderr
    for words, message in (
        (("pi-1", "--to", "pi-*"), "Name a DEVICE, or several with --to"),
        ((), "Name a DEVICE"),
        (("--to", "pi-9"), "No device is called 'pi-9'. Did you mean"),
        (("--to", "pi-*", "--table", "t"), "is of one device"),
    ):
        done = user.types(*ships, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


def test_what_is_deployed_on_the_command_line(fleet: Fleet, bundle: Bundle, tmp_path: Path) -> None:
    ship_to_all(bundle, chosen("pi-1"), "digits", Rollout())
    user = Terminal(tmp_path)
    done = user.types("deployed", "pi-[1236]", "--measure", "--json")
    assert done.returncode == 3
    assert f"{DEAD} cannot be reached" in done.stderr
    said = json.loads(done.stdout)
    (model,) = said["models"]
    assert (model["device"], model["name"], model["release"]) == ("pi-1", "digits", bundle.manifest.release)
    assert model["latency_ms_now"]["median"] == pytest.approx(0.04)
    assert list(said["unreached"]) == [DEAD]
    done = user.types("deployed", "pi-1,pi-2", "--to-app", "com.example.app")
    assert (done.returncode, done.stdout) == (2, "") and "is no phone" in done.stderr
    Device("keyless", "ssh://root@127.0.0.1", identity_file=str(tmp_path / "gone")).save()
    done = user.types("deployed", "keyless,pi-1")
    assert done.returncode == 3 and "pi-1" in done.stdout, "what is wrong with one hides none of the others"
    assert "keyless: identity_file" in done.stderr and "does not exist" in done.stderr
    (tmp_path / "devices" / "broken.toml").write_text("url = [")
    done = user.types("deployed", "broken,pi-1")
    assert done.returncode == 3 and "pi-1" in done.stdout and "broken.toml" in done.stderr
    done = user.types("deployed", "broken")
    assert (done.returncode, done.stdout) == (2, "") and "broken.toml" in done.stderr
    done = user.types("ship", str(bundle.folder), "--as", "digits", "--to", "broken,pi-1", "--dry-run")
    assert done.returncode == 2 and "broken.toml" in done.stderr, "a rollout begins where all can be read"
    (tmp_path / "devices" / "broken.toml").unlink()
    done = user.types("deployed", "pi-1,pi-2")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if "pi-1" in line]
    assert bundle.manifest.study.name in line and "digits" in line


def test_interrupted_it_says_what_became_of_each(fleet: Fleet, inside: Inside, bundle: Bundle, tmp_path: Path) -> None:
    """Ctrl-C while the second device measures."""
    user, before = Terminal(tmp_path), signal.getsignal(signal.SIGINT)
    words = ("ship", str(bundle.folder), "--as", "digits", "--to", "pi-1,pi-2,pi-4", "--wave", "1")

    def interrupt() -> None:
        if len(inside.params_of("single")) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: signal.getsignal(signal.SIGINT) is before, "the first Ctrl-C was heard")

    inside.before["single"] = interrupt
    done = user.types(*words, "--json")
    assert done.returncode == 130, done.stderr
    assert "pi-1: changed" in done.stderr and "stop at their next step" in done.stderr
    ended = {one["device"]: one["state"] for one in json.loads(done.stdout)["devices"]}
    assert ended == {"pi-1": "changed", "pi-2": "interrupted", "pi-4": "interrupted"}
    assert list(fleet.live()) == ["pi-1"]
    inside.before.clear()
    assert user.types(*words).returncode == 0
    assert list(fleet.live()) == ["pi-1", "pi-2", "pi-4"]


class Shipping:
    """Takes the place of `ship`: notes when each begins and ends, and fails on some.

    Args:
        together: so many wait for each other before they end; None: nobody does.
        errors: what befalls a device, by name.
    """

    def __init__(self, together: int | None = None, **errors: Exception) -> None:
        self.events: list[tuple[str, str]] = []  # ("begins" or "ends", name) as they came
        self.most = 0
        self._noting = threading.Lock()
        self._barrier = None if together is None else threading.Barrier(together)
        self._errors = errors

    def _note(self, what: str, name: str) -> None:
        with self._noting:
            self.events.append((what, name))
            now = sum(1 if what == "begins" else -1 for what, _ in self.events)
            self.most = max(self.most, now)

    def __call__(self, bundle: Bundle, device: Device, name: str, **_: object) -> Any:
        self._note("begins", device.name)
        if self._barrier is not None and device.name != "b1":  # the canary
            self._barrier.wait(120)  # broken, and all fail, where they do not run at the same time
        self._note("ends", device.name)
        if device.name in self._errors:
            raise self._errors[device.name]
        return SimpleNamespace(previous=None, release=1)

    def before(self, first: str, then: str) -> bool:
        """Whether one had ended when the other began."""
        return self.events.index(("ends", first)) < self.events.index(("begins", then))


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
    none = Shipping(together=3)
    assert roll_out(monkeypatch, bundle, none, 4, Rollout(canary=0, wave=4))["b1"] == "changed"
    assert none.most >= 3, "no canary: all at once"


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


def test_which_devices_a_pattern_takes(tmp_path: Path) -> None:
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
