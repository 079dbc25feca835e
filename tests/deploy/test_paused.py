"""`ship --pause...`: what runs on the device stands still while the model is measured, and runs before it goes live."""

from pathlib import Path

import pytest

from edgenas.deploy import Bundle, deployed, ship
from edgenas.deploy.pausing import Pause
from edgenas.device import Device, Runtime
from edgenas.errors import CheckFailedError, DeviceError, InputError
from tests.terminal import Terminal


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Device("here", "local:", folder=str(tmp_path / "work"))


def noting(tmp_path: Path) -> Pause:
    """A pause whose commands write down what was live when they ran."""
    script = tmp_path / "note"
    script.write_text(
        f'#!/bin/sh\necho "$1 $(ls "{tmp_path}/work/models/digits" 2>/dev/null | grep current)" >> "{tmp_path}/log"\n'
    )
    script.chmod(0o755)
    return Pause(stop=f"{script} stop", start=f"{script} start")


def test_it_runs_again_before_the_model_goes_live(board: Device, bundle: Bundle, tmp_path: Path) -> None:
    assert ship(bundle, board, "digits", pause=noting(tmp_path)).active == bundle.manifest.release
    assert (tmp_path / "log").read_text().split() == ["stop", "start"], "nothing was live yet at either"


def test_where_it_does_not_stop_nothing_goes_live(board: Device, bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match=r"exit code 1.*Nothing was put live"):
        ship(bundle, board, "digits", pause=Pause(stop="false", start="true"))
    assert deployed(board) == []


def test_a_model_that_is_refused_has_paused_nothing_for_long(board: Device, bundle: Bundle, tmp_path: Path) -> None:
    slow = Device("here", "local:", folder=board.folder, limits=type(board.limits)(max_latency_ms=1e-6))
    with pytest.raises(CheckFailedError, match="slower than its limit"):
        ship(bundle, slow, "digits", pause=noting(tmp_path))
    assert (tmp_path / "log").read_text().split() == ["stop", "start"]


def test_on_the_command_line(board: Device, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    board.save()
    pause, user = noting(tmp_path), Terminal(tmp_path)
    words = ("ship", str(bundle.folder), "here", "--as", "digits")
    user.gets(*words, "--pause-command", str(pause.stop), "--resume-command", str(pause.start))
    assert (tmp_path / "log").read_text().split() == ["stop", "start"]
    for wrong in (("--pause-command", "x"), ("--pause", "u", "--pause-command", "x", "--resume-command", "y")):
        user.is_refused(2, "Expected --pause UNIT, or --pause-command together with --resume-command", *words, *wrong)
    user.is_refused(2, "are of one device", *words[:2], "--to", "here", "--as", "digits", "--pause", "u")


def test_nothing_is_paused_on_a_phone(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="is a phone: nothing is paused there"):
        phone = Device("phone", "adb:X", runtime=Runtime("benchmark-model", benchmark_model="x"))
        ship(bundle, phone, "digits", pause=Pause(unit="app"))
