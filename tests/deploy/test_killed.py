"""One cut of each kind, of real processes and a real link: the old model is live, and the same command finishes.

The agent's steps in the file system are all cut in test_cuts.py, without processes.
"""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.deploy import Bundle, deployed, rollback, ship
from edgenas.device import Device
from edgenas.errors import DeviceError, UnreachableError
from tests.board import Board, Proxy
from tests.deploy.conftest import hooked_python, on_board
from tests.deploy.filesystem import KILLER
from tests.deploy.inside import Inside
from tests.waiting import until

Rewritten = Callable[..., Bundle]
_HOST = """
import os, signal, sys
from pathlib import Path
from edgenas.deploy import Bundle, ship
from edgenas.device import Device

def progress(what, done, total):
    if what == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

ship(Bundle.load(Path(sys.argv[1])), Device.load("here"), "digits", progress=progress)
"""


def live(device: Device) -> int:
    return deployed(device)[0].release


def killed_at(device: Device, step: str, folder: Path) -> Device:
    """The same device, whose agent kills itself at a step."""
    (folder / "cut").write_text(json.dumps(step))
    runtime = hooked_python(folder / "hook", KILLER, EDGENAS_WORK=device.folder, EDGENAS_CUT=folder / "cut")
    return dataclasses.replace(device, runtime=runtime)


def test_the_agent_is_killed_while_it_ships(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    ship(bundle, local, "digits")
    newer, inside.real = rewritten(bundle, tmp_path), True
    words = "the agent ended while asked to activate.*in the middle of the switch: the old or the new 'digits' is live"
    with pytest.raises(DeviceError, match=words):
        ship(newer, killed_at(local, "os.symlink", tmp_path), "digits")
    inside.real = False
    assert (tmp_path / "cut.hit").exists()
    assert live(local) == bundle.manifest.release
    assert ship(newer, local, "digits").active == newer.manifest.release


def test_the_agent_is_killed_while_it_goes_back(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """After the switch, before it is noted: given again it does not go back twice."""
    numbers = []
    for newer in (rewritten(bundle, tmp_path) for _ in range(3)):
        numbers.append(ship(newer, local, "digits", keep=3).active)
    inside.real = True
    with pytest.raises(DeviceError, match="the agent ended while asked to rollback"):
        rollback(killed_at(local, "history.jsonl", tmp_path), "digits")
    inside.real = False
    assert (tmp_path / "cut.hit").exists()
    assert live(local) == numbers[1]
    assert [rollback(local, "digits").active for _ in range(2)] == numbers[1::-1]


def test_the_host_is_killed_while_the_device_works(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """Its agent lets go of the device."""
    ship(bundle, local, "digits")  # what is measured beside is there for the other process, too
    newer = rewritten(bundle, tmp_path)
    local.save()
    argv = [sys.executable, "-c", _HOST, str(newer.folder), "measuring on the device"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert live(local) == bundle.manifest.release
    lock = os.open(Path(tempfile.gettempdir()) / "edgenas-device.lock", os.O_RDWR)

    def is_free() -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    until(is_free, "the agent whose host is gone has ended")
    os.close(lock)
    assert ship(newer, local, "digits").active == newer.manifest.release
    assert not list(Path(local.folder, "models", "digits").glob(".staging-*"))


def test_a_link_cut_in_mid_upload_leaves_the_old_model_and_the_upload_goes_on(
    board: Board, inside: Inside, bundle: Bundle, big_bundle: Bundle, tmp_path: Path
) -> None:
    direct = on_board(board, tmp_path / "work")
    inside.real = True
    ship(bundle, direct, "digits")  # its agent is there already
    one, sha = bundle.manifest.release, big_bundle.manifest.files["model.tflite"]
    part = tmp_path / "work" / "blobs" / f"{sha}.part"
    with Proxy(board.port) as proxy:
        proxy.cut_after = 600_000  # this is within the model's 1.2 MB
        # What a server has not read yet when its link is reset is lost.
        proxy.before_cut = lambda: until(lambda: part.exists() and part.stat().st_size, "what had come is written")
        words = f"the link broke.*The old model is still live: release {one} of 'digits'"
        with pytest.raises(UnreachableError, match=words):
            ship(big_bundle, on_board(board, tmp_path / "work", proxy.port), "digits")
    inside.real = False
    arrived = part.stat().st_size
    assert arrived < big_bundle.model_path.stat().st_size
    assert live(direct) == one
    sent: list[int] = []
    shipped = ship(
        big_bundle, direct, "digits", progress=lambda what, done, of: sent.append(done) if "model" in what else None
    )
    assert (shipped.active, shipped.previous) == (big_bundle.manifest.release, one)
    assert min(done for done in sent if done) > arrived, "what had arrived is not sent again"
    assert not part.exists()
