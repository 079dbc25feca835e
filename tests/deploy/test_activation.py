"""The switch itself fails: what was live is live again, and a rollout stops."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.deploy import Bundle, deployed, fleet, rollback, ship, verify
from edgenas.deploy.fleet import Rollout, ship_to_all
from edgenas.device import Device
from edgenas.errors import InputError, UnreachableError, WentBackError
from tests.deploy.filesystem import failing
from tests.deploy.inside import Inside

Rewritten = Callable[..., Bundle]

FAULTS = [("/current/", errno.EIO, False, "cannot be read"), ("history.jsonl", errno.ENOSPC, True, "No space left")]
pytestmark = pytest.mark.usefixtures("inside")


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
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path,
    path: str, number: int, writing: bool, words: str,
) -> None:  # fmt: skip
    newer = rewritten(bundle, tmp_path)
    nothing = rf"could not be made live: .*{words}.*Nothing was put live"
    with failing(path, number, writing), pytest.raises(WentBackError, match=nothing) as caught:
        ship(bundle, local, "digits")
    assert (caught.value.exit_code, live(local)) == (4, None)
    assert left(local) <= {"models/digits", "models/digits/history.jsonl"}, "of an open that failed"
    ship(bundle, local, "digits")
    before, old = left(local), rf"could not be made live: .*{words}.*The old model is still live"
    with failing(path, number, writing), pytest.raises(WentBackError, match=old):
        ship(newer, local, "digits")
    assert live(local) == bundle.manifest.release
    assert left(local) == before
    assert verify(local, "digits", bundle=bundle, measure=False).release == bundle.manifest.release
    assert len((Path(local.folder) / "models" / "digits" / "history.jsonl").read_text().splitlines()) == 1
    assert ship(newer, local, "digits").active == newer.manifest.release


@pytest.mark.parametrize(("path", "number", "writing", "words"), FAULTS)
def test_a_rollback_that_fails_changes_nothing(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path,
    path: str, number: int, writing: bool, words: str,
) -> None:  # fmt: skip
    one, two, three = (rewritten(bundle, tmp_path) for _ in range(3))
    for each in (one, two, three):
        ship(each, local, "digits", keep=3)
    number_of = [b.manifest.release for b in (one, two, three)]
    before = left(local)
    for _ in range(2):
        message = (
            rf"release {number_of[1]} of digits could not be made live: .*{words}.*; live is release {number_of[2]}"
        )
        with failing(path, number, writing), pytest.raises(WentBackError, match=message):
            rollback(local, "digits")
        assert live(local) == number_of[2]
    assert left(local) == before
    assert rollback(local, "digits").active == number_of[1]
    assert rollback(local, "digits").active == number_of[0]


def test_a_note_that_the_disk_could_not_take_is_no_history(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written, and then the disk turns out to be full."""
    ship(bundle, local, "digits")
    history, newer = Path(local.folder) / "models" / "digits" / "history.jsonl", rewritten(bundle, tmp_path)
    before, fsync = history.read_bytes(), os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == history:
            assert history.read_bytes() != before
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(history))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WentBackError, match=r"No space left.*The old model is still live"):
            ship(newer, local, "digits")
    assert (history.read_bytes(), live(local)) == (before, bundle.manifest.release)
    assert ship(newer, local, "digits").active == newer.manifest.release


def test_the_last_three_that_were_live_are_kept(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """One that could not be made live takes nobody's place."""
    releases = []
    for place in range(5):
        newer = rewritten(bundle, tmp_path)
        if place == 3:
            with failing(*FAULTS[0][:3]), pytest.raises(WentBackError):
                ship(newer, local, "digits", keep=3)
            continue
        assert ship(newer, local, "digits", keep=3).active == newer.manifest.release
        releases.append(newer.manifest.release)
    kept = Path(local.folder) / "models" / "digits" / "releases"
    assert {int(found.name) for found in kept.iterdir()} == set(releases[-3:])
    assert [rollback(local, "digits").active for _ in range(2)] == releases[-2:-4:-1]


def test_a_rollout_stops_where_one_was_rolled_back(local: Device, bundle: Bundle, tmp_path: Path) -> None:
    other = Device("other", "local:", folder=str(tmp_path / "other"))
    with failing(*FAULTS[0][:3]):
        first, second = ship_to_all(bundle, [local, other], "digits", Rollout(canary=1))
    assert (first.state, second.state) == ("rolled back", "not tried")
    assert deployed(other) == []


def test_a_canary_that_is_lost_on_the_way_has_failed(
    local: Device, inside: Inside, bundle: Bundle, tmp_path: Path
) -> None:
    """A model that brings its board down must not get to the others."""

    def lose() -> None:
        raise UnreachableError("here: the link broke.")

    inside.before["single"] = lose
    other = Device("other", "local:", folder=str(tmp_path / "other"))
    first, second = ship_to_all(bundle, [local, other], "digits", Rollout(canary=1))
    assert (first.state, second.state) == ("failed", "not tried")
    assert "the link broke" in first.detail
    inside.before = {"hello": lose}  # before anything was done there
    first, second = ship_to_all(bundle, [local, other], "digits", Rollout(canary=1))
    assert (first.state, second.state) == ("off", "off")


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
