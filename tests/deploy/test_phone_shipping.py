"""What shipping to a phone does: live only when all is well there; otherwise the old model stays.

The phones are without adb (tests/deploy/pocket.py); their shells' scripts, on every kind of phone, and what the shells
make of hostile names: test_phone_releases.py."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.deploy import Bundle, deployed, rollback, ship, verify
from edgenas.deploy.keys import SigningKey
from edgenas.deploy.manifest import TableUsed
from edgenas.deploy.phone_releases import PhoneReleases
from edgenas.device import Device, Limits, open_phone
from edgenas.errors import CheckFailedError, DeviceError, InputError, UnreachableError, WentBackError
from edgenas.latency.table import Identity, LatencyTable
from edgenas.model import converter_version
from tests import made
from tests.deploy.conftest import certified
from tests.deploy.pocket import Pocket, Wire
from tests.terminal import Terminal

Make = Callable[..., Pocket]
Rewritten = Callable[..., Bundle]


def current(folder: Path) -> Path:
    """The release that an application finds."""
    path = folder / "current"
    return path.resolve() if path.is_symlink() else folder / path.read_text().strip()


def models(phone: Pocket) -> Path:
    return phone.home / "edgenas" / "models"


def live(phone: Pocket) -> int | None:
    found = deployed(phone.device())
    return found[0].release if found else None


def left_over(phone: Pocket) -> list[str]:
    """What should not be there: parts, staging folders, files of a measurement."""
    names = {".staging", ".current-new", "bench", "to-app"}
    found = [path for path in phone.root.rglob("*") if path.name in names or path.suffix == ".part"]
    return [str(path.relative_to(phone.root)) for path in found]


def table_of(device: Device, predicted_us: float, threads: int = 1, **more: Any) -> LatencyTable:
    """A table of a phone that says SMALL takes `predicted_us`, give or take 40%; its reference takes 10 us."""
    with contextlib.ExitStack() as stack:
        phone = open_phone(device, stack)
        info, version = phone.info, phone.runtime_version()
    return certified(
        Identity(
            device.name, info.fingerprint, info.cpu, info.cores, 1, info.os, info.kernel, info.firmware, "",
            "benchmark-model", version, "XNNPACK", threads, None, "int8", converter_version(),
        ), predicted_us, **more,
    )  # fmt: skip


def test_from_a_bundle_to_a_live_model_and_back(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    device, number = pocket.device(), bundle.manifest.release
    second, third = (rewritten(bundle, tmp_path) for _ in range(2))
    first = ship(bundle, device, "digits")
    assert (first.active, first.previous, first.release, first.agreement_on_device) == (number, None, number, None)
    assert first.latency_ms == {"median": 0.01, "p90": 0.01}
    assert [(check.name, check.passed) for check in first.checks] == [
        ("hashes", True), ("signature", None), ("agreement", None), ("promise", None)
    ]  # fmt: skip
    assert "hashes only, no signatures" in first.checks[1].detail
    released = current(models(pocket) / "digits")
    assert sorted(path.name for path in released.iterdir()) == ["labels.txt", "manifest.json", "model.tflite"]
    again = ship(bundle, device, "digits")
    assert (again.active, again.previous) == (number, number)

    shipped = ship(second, device, "digits", table=table_of(device, 1e6))
    assert (shipped.active, shipped.previous) == (second.manifest.release, number)
    assert (shipped.promise, shipped.promise_kept, shipped.normalised_ms) == ("kept", True, pytest.approx(0.01))
    shipped = ship(third, device, "digits", table=table_of(device, 0.01))
    assert (shipped.active, shipped.promise) == (third.manifest.release, "broken")
    assert left_over(pocket) == []

    found = deployed(device)[0]
    assert (found.name, found.release, found.previous) == ("digits", third.manifest.release, second.manifest.release)
    assert str(found.since).startswith("20")
    assert found.record is not None
    assert found.record["test_accuracy"] == bundle.manifest.accuracy.test
    kept = sorted(path.name for path in (models(pocket) / "digits" / "releases").iterdir())
    assert kept == [str(second.manifest.release), str(third.manifest.release)]
    with pytest.raises(CheckFailedError, match=r"is older than release .* The old model is still live"):
        ship(bundle, device, "digits")
    back = rollback(device, "digits")
    assert (back.active, back.previous) == (second.manifest.release, third.manifest.release)
    assert current(models(pocket) / "digits").name == str(second.manifest.release)
    with pytest.raises(CheckFailedError, match="no earlier release"):
        rollback(device, "digits")
    with pytest.raises(CheckFailedError, match=rf"release {number} of digits is not kept on this device; it has"):
        rollback(device, "digits", number)
    assert rollback(device, "digits", third.manifest.release).active == third.manifest.release
    with pytest.raises(InputError, match="no model 'other' was ever put"):
        rollback(device, "other")


def test_it_is_measured_beside_the_table_s_networks_with_its_threads(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    device = pocket.device()
    size = made.INT8.stat().st_size
    pocket.us = {None: 40.0, size: 10.0}  # the model; the reference and the anchors
    shipped = ship(bundle, device, "digits", table=table_of(device, 1e6, threads=2, anchors_ms=(0.0104, 0.0104)))
    assert shipped.latency_ms["median"] == pytest.approx(0.04)
    assert shipped.normalised_ms == pytest.approx(0.0416), "the anchors took 4% more: so would it"
    assert all("--num_threads=2" in flags for flags in pocket.flags)
    pocket.flags.clear()
    verify(device, "digits")
    assert all("--num_threads=2" in flags for flags in pocket.flags), "as it was shipped"
    ship(rewritten(bundle, tmp_path), device, "digits")
    assert "--num_threads=1" in pocket.flags[-1]


def test_a_manifest_does_not_set_a_phone_s_threads(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    table = table_of(pocket.device(), 1e6)
    for threads in (5000, -1):
        used = TableUsed("t", "measured", dataclasses.replace(table.identity, threads=threads))
        with pytest.raises(InputError, match=f"expected 1 to .* as many as it has cores, received {threads}"):
            ship(rewritten(bundle, tmp_path, table=used), pocket.device(), "digits")
    assert (pocket.flags, models(pocket).exists()) == ([], False)


def test_what_is_live_elsewhere_is_not_whole_and_nothing_is_shipped_over_it(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    device = pocket.device()
    ship(bundle, device, "digits")
    outside = models(pocket).parent / "outside"
    (models(pocket) / "digits" / "releases").rename(outside)
    (models(pocket) / "digits" / "current").unlink()
    (models(pocket) / "digits" / "current").symlink_to(outside / str(bundle.manifest.release))
    newer = rewritten(bundle, tmp_path)
    for work in (
        lambda: verify(device, "digits"),
        lambda: rollback(device, "digits"),
        lambda: ship(newer, device, "digits"),
    ):
        with pytest.raises(CheckFailedError, match="current is no link to one of its releases"):
            work()
    (found,) = deployed(device)
    assert found.release is None and "current is no link to one of its releases" in str(found.wrong)
    assert current(models(pocket) / "digits").parent == outside
    (models(pocket) / "digits" / "current").unlink()
    assert ship(newer, device, "digits").active == newer.manifest.release, "as the message says"


def test_verify_looks_at_what_is_live_again(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    device = pocket.device()
    with pytest.raises(InputError, match="no model 'digits' is live there"):
        verify(device, "digits")
    shipped = ship(bundle, device, "digits")
    pocket.us[None] = 20.0
    found = verify(device, "digits", bundle=bundle)
    assert (found.release, found.signed_by, found.agreement_on_device) == (bundle.manifest.release, None, None)
    assert found.latency_ms_when_shipped == shipped.latency_ms
    assert found.latency_ms is not None and found.latency_ms["median"] == pytest.approx(0.02)
    assert verify(device, "digits", measure=False).latency_ms is None
    with pytest.raises(CheckFailedError, match=r"the bundle .* is another one"):
        verify(device, "digits", bundle=rewritten(bundle, tmp_path))
    labels = current(models(pocket) / "digits") / "labels.txt"
    labels.write_bytes(labels.read_bytes() + b"x")
    with pytest.raises(CheckFailedError, match=r"labels\.txt is not what was sent: expected sha256 .*, received"):
        verify(device, "digits")
    assert left_over(pocket) == []


def test_a_signature_travels_though_nothing_there_checks_it(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, keys: Callable[..., SigningKey], tmp_path: Path
) -> None:
    signed = rewritten(bundle, tmp_path, keys())
    shipped = ship(signed, pocket.device(), "digits")
    assert next(check for check in shipped.checks if check.name == "signature").passed is None
    assert (current(models(pocket) / "digits") / "manifest.sig").is_file()


def test_slower_than_its_limit(pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    newer = rewritten(bundle, tmp_path)
    strict = pocket.device(limits=Limits(max_latency_ms=0.0099))
    with pytest.raises(CheckFailedError, match=r"slower than its limit: .* Nothing was put live"):
        ship(bundle, strict, "digits")
    assert not (models(pocket) / "digits").exists()
    assert ship(bundle, pocket.device(limits=Limits(max_latency_ms=0.01)), "digits").limit_ms == 0.01
    with pytest.raises(CheckFailedError, match=r"slower than its limit: .* The old model is still live: release 2"):
        ship(newer, strict, "digits")
    assert live(pocket) == bundle.manifest.release
    assert left_over(pocket) == []
    dry = ship(newer, pocket.device(), "digits", dry_run=True)
    assert (dry.active, dry.dry_run, live(pocket)) == (bundle.manifest.release, True, bundle.manifest.release)
    assert left_over(pocket) == []


def test_a_phone_without_room(pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    ship(bundle, pocket.device(), "digits")
    pocket.replace("df", "echo head; echo disk 100 99 1 99% /data")
    with pytest.raises(CheckFailedError, match=r"the phone has 1 kB free\. The old model is still live"):
        ship(rewritten(bundle, tmp_path), pocket.device(), "digits")
    assert left_over(pocket) == []


def test_a_file_that_is_damaged_on_the_phone_is_caught(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """The phone's storage gives back something else than was written, once the files are looked at in their folder."""
    ship(bundle, pocket.device(), "digits")
    pocket.replace("sha256sum", '[ -e model.tflite ] && printf x >> labels.txt; exec /usr/bin/sha256sum "$@"')
    with pytest.raises(CheckFailedError, match=r"labels\.txt is not what was sent.*The old model is still live"):
        ship(rewritten(bundle, tmp_path), pocket.device(), "digits")
    (pocket.bin / "sha256sum").unlink()
    assert live(pocket) == bundle.manifest.release
    assert left_over(pocket) == []


def test_what_is_damaged_by_the_switch_is_taken_back(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    ship(bundle, pocket.device(), "digits")
    once = '[ -e "$PHONE/once" ] || { touch "$PHONE/once"; printf x >> "$2/labels.txt"; }'
    pocket.replace("ln", f'/bin/ln "$@"; {once}')
    newer = rewritten(bundle, tmp_path)
    words = r"could not be made live, and was taken back: labels\.txt is not what.*The old model is still live"
    with pytest.raises(WentBackError, match=words):
        ship(newer, pocket.device(), "digits")
    assert live(pocket) == bundle.manifest.release
    assert verify(pocket.device(), "digits", measure=False).release == bundle.manifest.release
    assert ship(newer, pocket.device(), "digits").active == newer.manifest.release, "the damaged one is replaced"


def test_what_cannot_be_noted_is_taken_back(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a board. What a full history does to the note itself: test_phone_releases.py."""

    def full(*_: object, **__: object) -> None:
        raise DeviceError("phone: its shell refused: No space left on device.")

    device, newer = pocket.device(), rewritten(bundle, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(PhoneReleases, "note", full)
        with pytest.raises(WentBackError, match=r"taken back: .*No space left on device.* Nothing was put live"):
            ship(bundle, device, "digits")
    assert live(pocket) is None
    ship(bundle, device, "digits")
    with monkeypatch.context() as patch:
        patch.setattr(PhoneReleases, "note", full)
        with pytest.raises(WentBackError, match=r"taken back: .*No space left on device.* The old model is still live"):
            ship(newer, device, "digits")
    assert live(pocket) == bundle.manifest.release
    kept = [path.name for path in (models(pocket) / "digits" / "releases").iterdir()]
    assert kept == [str(bundle.manifest.release)], "what never came to be live takes no room"
    assert ship(newer, device, "digits").active == newer.manifest.release
    with monkeypatch.context() as patch:
        patch.setattr(PhoneReleases, "note", full)
        with pytest.raises(WentBackError, match=r"taken back: .*No space left on device"):
            rollback(device, "digits")
    assert live(pocket) == newer.manifest.release
    assert rollback(device, "digits").active == bundle.manifest.release


def test_a_switch_that_was_cut_before_its_note_and_then_cannot_be_noted(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, newer, newest = pocket.device(), rewritten(bundle, tmp_path), rewritten(bundle, tmp_path)

    def refuse(error: type[Exception]) -> None:
        def note(*_: object, **__: object) -> None:
            raise error("no note.")

        monkeypatch.setattr(PhoneReleases, "note", note)

    real = PhoneReleases.note
    for one in (bundle, newer):
        ship(one, device, "digits", keep=3)
    refuse(UnreachableError)
    with pytest.raises(UnreachableError):
        ship(newest, device, "digits", keep=3)
    assert live(pocket) == newest.manifest.release
    refuse(DeviceError)
    with pytest.raises(WentBackError, match=rf"taken back: no note\. The old .*: release {newer.manifest.release} "):
        ship(newest, device, "digits", keep=3)
    assert live(pocket) == newer.manifest.release

    # The same of a rollback: given again it does not go back twice.
    monkeypatch.setattr(PhoneReleases, "note", real)
    ship(newest, device, "digits", keep=3)
    refuse(UnreachableError)
    with pytest.raises(UnreachableError):
        rollback(device, "digits")
    assert live(pocket) == newer.manifest.release
    monkeypatch.setattr(PhoneReleases, "note", real)
    for again in (None, bundle.manifest.release):
        done = rollback(device, "digits", again)
        expected = (newer, newest) if again is None else (bundle, newer)
        assert (done.active, done.previous) == tuple(one.manifest.release for one in expected)


@pytest.mark.parametrize("step", ["stage", "put", "verify", "adopt", "point", "note", "prune"])
def test_a_cut_at_any_step_leaves_the_old_or_the_new_and_the_same_command_finishes(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    device, newer = pocket.device(), rewritten(bundle, tmp_path)
    ship(bundle, device, "digits")

    def cut(releases: PhoneReleases, *_: object, **__: object) -> None:
        pocket.plugged = False
        releases._connection.run(["true"])

    with monkeypatch.context() as patch:
        patch.setattr(PhoneReleases, step, cut)
        with pytest.raises(UnreachableError) as caught:
            ship(newer, device, "digits")
    assert "\n" not in str(caught.value)
    switched = step in ("note", "prune")
    assert current(models(pocket) / "digits").name == str((newer if switched else bundle).manifest.release)
    pocket.plugged = True
    assert ship(newer, device, "digits").active == newer.manifest.release
    assert verify(device, "digits", measure=False).release == newer.manifest.release
    assert left_over(pocket) == []
    assert rollback(device, "digits").active == bundle.manifest.release


def test_a_rollback_does_not_cross_a_shipment(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    device, newer = pocket.device(), rewritten(bundle, tmp_path)
    ship(bundle, device, "digits")
    ship(newer, device, "digits")
    with contextlib.ExitStack() as stack:
        open_phone(device, stack).lock()
        with pytest.raises(DeviceError, match="is being measured by"):
            rollback(device, "digits")
    assert live(pocket) == newer.manifest.release
    assert rollback(device, "digits").active == bundle.manifest.release


def test_two_releases_stay_whatever_is_asked_for(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """As on a board."""
    bundles = [bundle, *(rewritten(bundle, tmp_path) for _ in range(3))]
    for one in bundles:
        ship(one, pocket.device(), "digits", keep=0)
    kept = sorted(int(path.name) for path in (models(pocket) / "digits" / "releases").iterdir())
    assert kept == [one.manifest.release for one in bundles[2:]]


def test_a_big_model_has_the_time_that_it_needs(pocket: Pocket, monkeypatch: pytest.MonkeyPatch) -> None:
    big = Path("model.tflite")
    with big.open("wb") as file:
        file.truncate(10_000_000)
    given: list[float] = []
    with Wire(pocket.device(), pocket) as connection:
        monkeypatch.setattr(connection, "put", lambda local, remote, timeout_s: given.append(timeout_s))
        PhoneReleases(connection).put(big, "staging", "model.tflite")
    assert given == [2600], "at 5 kB/s, as to a board"


def test_labels_and_studies_that_would_be_commands(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    odd = ["$(touch canary)", "`touch canary`", "; touch canary", "a'b\"c", "-rf", "é漢😀", "*", "~", "\\", "\x1b[31m"]
    study = dataclasses.replace(bundle.manifest.study, name="$(touch canary)\n'", candidate="`")
    manifest = rewritten(bundle, tmp_path, study=study).manifest
    folder = tmp_path / "-b $(touch canary)"
    hostile = Bundle.write(folder, manifest, bundle.model_path.read_bytes(), odd, bundle.samples)
    ship(hostile, pocket.device(), "hostile")
    released = current(models(pocket) / "hostile")
    assert (released / "labels.txt").read_bytes() == (hostile.folder / "labels.txt").read_bytes()
    (found,) = deployed(pocket.device())
    assert found.record is not None
    assert found.record["study"] == study.name
    assert verify(pocket.device(), "hostile", measure=False).release == found.release
    assert not [path for path in tmp_path.rglob("*") if path.name == "canary"]


def test_a_torn_history_is_read_as_far_as_it_goes(
    pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    device = pocket.device()
    bundles = [bundle, *(rewritten(bundle, tmp_path) for _ in range(2))]
    numbers = [one.manifest.release for one in bundles]
    for one in bundles[:2]:
        ship(one, device, "digits")
    history = models(pocket) / "digits" / "history.jsonl"
    history.write_text(history.read_text() + '{"event": "activ')
    assert ship(bundles[2], device, "digits").active == numbers[2]
    assert deployed(device)[0].previous == numbers[1]
    events = [json.loads(line) for line in history.read_text().splitlines() if line.endswith("}")]
    assert [event["release"] for event in events] == numbers


def test_on_the_command_line(pocket: Pocket, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    pocket.device().save()
    gets = Terminal(tmp_path).gets
    bundles = [bundle, rewritten(bundle, tmp_path)]
    one, two = (str(ours.manifest.release) for ours in bundles)
    for ours in bundles:
        assert gets("ship", str(ours.folder), "phone", "--as", "digits")["active"] == ours.manifest.release
    assert gets("verify", "phone", "digits", "--bundle", str(bundles[1].folder))["release"] == int(two)
    assert gets("rollback", "phone", "digits")["active"] == int(one)
    (model,) = gets("deployed", "phone", "--measure")["models"]
    assert (model["release"], model["wrong"]) == (int(one), None)
    assert model["latency_ms_now"]["median"] == pytest.approx(0.01)
