"""The switch itself fails: what was live is live again, and a rollout stops."""

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.deploy import Bundle, deployed, fleet, rollback, ship, verify
from edgenas.deploy.fleet import Rollout, ship_to_all
from edgenas.device import Device
from edgenas.errors import InputError, WentBackError
from tests.board import Board, Proxy
from tests.deploy.conftest import hooked_python, on_board

Rewritten = Callable[..., Bundle]

# What the kernel says to whoever opens such a file, for writing where that is asked.
_FAILING = """
import os, sys

def hook(event, arguments):
    if event == "open" and os.environ["EDGENAS_PATH"] in str(arguments[0]):
        if arguments[2] & os.O_ACCMODE or not int(os.environ["EDGENAS_WRITING"]):
            number = int(os.environ["EDGENAS_ERRNO"])
            raise OSError(number, os.strerror(number), str(arguments[0]))

sys.addaudithook(hook)
"""
FAULTS = [("/current/", errno.EIO, False, "cannot be read"), ("history.jsonl", errno.ENOSPC, True, "No space left")]


def failing(device: Device, folder: Path, path: str, number: int, writing: bool) -> Device:
    """The same device with a disk that fails."""
    runtime = hooked_python(
        folder / "hook", _FAILING, EDGENAS_PATH=path, EDGENAS_ERRNO=number, EDGENAS_WRITING=int(writing)
    )
    return dataclasses.replace(device, runtime=runtime)


def left(device: Device) -> set[str]:
    """What lies in the folders of models and of the store, but for locks."""
    work = Path(device.folder)
    found = {str(path.relative_to(work)) for folder in ("models", "blobs") for path in (work / folder).rglob("*")}
    return {name for name in found if not name.endswith(".lock")}


def live(device: Device) -> int | None:
    found = deployed(device)
    return found[0].release if found else None


@pytest.mark.parametrize(("path", "number", "writing", "words"), FAULTS)
def test_what_cannot_be_made_live_is_taken_back(
    device: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path,
    path: str, number: int, writing: bool, words: str,
) -> None:  # fmt: skip
    broken, newer = failing(device, tmp_path, path, number, writing), rewritten(bundle, tmp_path)
    with pytest.raises(WentBackError, match=rf"could not be made live: .*{words}.*Nothing was put live") as caught:
        ship(bundle, broken, "digits")
    assert (caught.value.exit_code, live(device)) == (4, None)
    assert left(device) <= {"models/digits", "models/digits/history.jsonl"}, "of an open that failed"
    ship(bundle, device, "digits")
    before = left(device)
    with pytest.raises(WentBackError, match=rf"could not be made live: .*{words}.*The old model is still live"):
        ship(newer, broken, "digits")
    assert live(device) == bundle.manifest.release
    assert left(device) == before
    assert verify(device, "digits", bundle=bundle, measure=False).release == bundle.manifest.release
    assert len((Path(device.folder) / "models" / "digits" / "history.jsonl").read_text().splitlines()) == 1
    assert ship(newer, device, "digits").active == newer.manifest.release


@pytest.mark.parametrize(("path", "number", "writing", "words"), FAULTS)
def test_a_rollback_that_fails_changes_nothing(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path,
    path: str, number: int, writing: bool, words: str,
) -> None:  # fmt: skip
    one, two, three = (rewritten(bundle, tmp_path) for _ in range(3))
    for each in (one, two, three):
        ship(each, local, "digits", keep=3)
    broken, number_of = failing(local, tmp_path, path, number, writing), [b.manifest.release for b in (one, two, three)]
    before = left(local)
    for _ in range(2):
        message = (
            rf"release {number_of[1]} of digits could not be made live: .*{words}.*; live is release {number_of[2]}"
        )
        with pytest.raises(WentBackError, match=message):
            rollback(broken, "digits")
        assert live(local) == number_of[2]
    assert left(local) == before
    assert rollback(local, "digits").active == number_of[1]
    assert rollback(local, "digits").active == number_of[0]


def test_the_last_three_that_were_live_are_kept(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """One that could not be made live takes nobody's place."""
    releases = []
    for place in range(5):
        newer = rewritten(bundle, tmp_path)
        if place == 3:
            with pytest.raises(WentBackError):
                ship(newer, failing(local, tmp_path, *FAULTS[0][:3]), "digits", keep=3)
            continue
        assert ship(newer, local, "digits", keep=3).active == newer.manifest.release
        releases.append(newer.manifest.release)
    kept = Path(local.folder) / "models" / "digits" / "releases"
    assert {int(found.name) for found in kept.iterdir()} == set(releases[-3:])
    assert [rollback(local, "digits").active for _ in range(2)] == releases[-2:-4:-1]


def test_a_rollout_stops_where_one_was_rolled_back(local: Device, bundle: Bundle, tmp_path: Path) -> None:
    broken = dataclasses.replace(failing(local, tmp_path, *FAULTS[0][:3]), name="a")
    other = Device("b", "local:", folder=str(tmp_path / "other"))
    first, second = ship_to_all(bundle, [broken, other], "digits", Rollout(canary=1))
    assert (first.state, second.state) == ("rolled back", "not tried")
    assert deployed(other) == []


def test_a_canary_that_is_lost_on_the_way_has_failed(
    board: Board, bundle: Bundle, big_bundle: Bundle, tmp_path: Path
) -> None:
    """A model that brings its board down must not get to the others."""
    ship(bundle, on_board(board, tmp_path / "work"), "digits")  # its agent is there already
    other = Device("other", "local:", folder=str(tmp_path / "other"))
    with Proxy(board.port) as proxy:
        proxy.cut_after = 600_000
        proxy.pause_s = 0.005
        canary = on_board(board, tmp_path / "work", proxy.port)
        first, second = ship_to_all(big_bundle, [canary, other], "digits", Rollout(canary=1))
    assert (first.state, second.state) == ("failed", "not tried")
    assert "the link broke" in first.detail


def test_what_cannot_be_shipped_at_all_is_refused_before_anything_is(local: Device, bundle: Bundle) -> None:
    for rollout, words in (
        (Rollout(precision="float32"), "no float32 model"),
        (Rollout(to_app="com.x"), "is no phone"),
    ):
        with pytest.raises(InputError, match=words):
            ship_to_all(bundle, [local], "digits", rollout)
    assert not Path(local.folder).exists()


def test_a_fault_of_our_own_on_one_device_is_told_like_any_other(
    local: Device, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(bundle: Bundle, device: Device, *rest: object, **more: object) -> object:
        if device.name == "here":
            raise RuntimeError("nobody thought of this")
        return ship(bundle, device, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(fleet, "ship", fail)
    other = Device("other", "local:", folder=str(tmp_path / "other"))
    first, second = ship_to_all(bundle, [local, other], "digits", Rollout(canary=0, max_failures=1))
    assert (first.state, first.detail) == ("failed", "here: RuntimeError: nobody thought of this")
    assert second.state == "changed"
