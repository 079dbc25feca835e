"""A bundle goes live only when all is well on the device; otherwise the old model stays, and the message says why."""

import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, deployed, rollback, ship, verify
from edgenas.deploy.manifest import Gate, Manifest, TableUsed
from edgenas.device import Device, Limits
from edgenas.errors import CheckFailedError, InputError
from edgenas.latency.table import LatencyTable
from edgenas.model import run_tflite
from tests import made
from tests.deploy.inside import Inside

Rewritten = Callable[..., Bundle]
TableOf = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("inside")


def models(device: Device) -> Path:
    """Where a device of these tests keeps its models: they are all on this machine."""
    return Path(device.folder) / "models"


def live(device: Device) -> int | None:
    found = deployed(device)
    return found[0].release if found else None


def nothing_left_over(device: Device, name: str = "digits") -> bool:
    """No staging, and no file in the store that no release holds."""
    blobs = Path(device.folder, "blobs")
    loose = [path for path in blobs.iterdir() if path.stat().st_nlink == 1] if blobs.is_dir() else []
    return not loose and not list((models(device) / name).glob(".staging-*"))


def test_what_is_told_and_kept_of_a_shipment(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, table_of: TableOf, tmp_path: Path
) -> None:
    first, one = ship(bundle, local, "digits"), bundle.manifest.release
    assert first.latency_ms == {"median": pytest.approx(0.04), "p90": pytest.approx(0.0432)}
    assert nothing_left_over(local)
    again = rewritten(bundle, tmp_path)
    two = again.manifest.release
    second = ship(again, local, "digits", table=table_of(local, 1e6))
    assert (second.promise, second.promise_kept, second.predicted_ms) == ("kept", True, pytest.approx(1000))
    assert [(check.name, check.passed) for check in second.checks] == [
        ("hashes", True), ("signature", None), ("agreement", True), ("promise", True)
    ]  # fmt: skip
    (found,) = deployed(local)
    assert (found.name, found.release, found.previous) == ("digits", two, one)
    assert found.record is not None
    assert found.record["test_accuracy"] == bundle.manifest.accuracy.test
    back = rollback(local, "digits")
    assert (back.active, back.previous, live(local)) == (one, two, one)
    with pytest.raises(CheckFailedError, match="no earlier release"):
        rollback(local, "digits")
    assert rollback(local, "digits", to=two).active == two
    inside.model_us = 60.0
    checked = verify(local, "digits", bundle=again)
    assert (checked.release, checked.agreement_on_device, checked.signed_by) == (two, 1.0, None)
    assert checked.latency_ms is not None and checked.latency_ms["median"] == pytest.approx(0.06)
    assert checked.latency_ms_when_shipped == second.latency_ms
    with pytest.raises(CheckFailedError, match=f"live is release {two} of 'digits', and the bundle .* is another one"):
        verify(local, "digits", bundle=bundle, measure=False)
    assert files.as_mapping(second)["latency_ms"] == second.latency_ms, "it can be written as JSON"


def test_a_promise_that_is_not_kept_is_said(local: Device, bundle: Bundle, table_of: TableOf) -> None:
    shipped = ship(bundle, local, "digits", table=table_of(local, 0.01))
    assert (shipped.promise, shipped.promise_kept) == ("broken", False)
    assert shipped.active == bundle.manifest.release


def test_what_backs_no_promise_is_shipped_and_told(local: Device, bundle: Bundle, table_of: TableOf) -> None:
    table = table_of(local, 1e6, fingerprint="0" * 12)
    shipped = ship(bundle, local, "digits", table=table, dry_run=True)
    assert (shipped.promise, shipped.promise_kept, shipped.normalised_ms) == ("unbacked", None, None)
    assert "another device or system" in next(check for check in shipped.checks if check.name == "promise").detail


def test_a_table_of_another_precision_or_device_is_refused(local: Device, bundle: Bundle, table_of: TableOf) -> None:
    with pytest.raises(InputError, match="precision float32, wanted is int8"):
        ship(bundle, local, "digits", table=table_of(local, 1.0, precision="float32"))
    with pytest.raises(InputError, match="device other, wanted is here"):
        ship(bundle, local, "digits", table=table_of(local, 1.0, device="other"))


def test_a_dry_run_changes_nothing(local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    shipped = ship(bundle, local, "digits", dry_run=True)
    assert (shipped.active, shipped.previous, shipped.dry_run) == (None, None, True)
    assert not (models(local) / "digits").exists()
    one = bundle.manifest.release
    ship(bundle, local, "digits")
    shipped = ship(rewritten(bundle, tmp_path), local, "digits", dry_run=True)
    assert (shipped.active, shipped.previous, shipped.dry_run) == (one, one, True)
    assert shipped.agreement_on_device == 1.0
    assert live(local) == one
    assert nothing_left_over(local)


def test_the_same_bundle_once_more_is_checked_and_nothing_else(local: Device, bundle: Bundle) -> None:
    ship(bundle, local, "digits")
    again = ship(bundle, local, "digits")
    assert (again.active, again.previous) == (bundle.manifest.release, bundle.manifest.release)
    assert again.agreement_on_device == 1.0
    assert len((models(local) / "digits" / "history.jsonl").read_text().splitlines()) == 1
    assert nothing_left_over(local)


@pytest.mark.parametrize(("keep", "stay"), [(0, 2), (2, 2), (3, 3)])
def test_as_many_releases_stay_as_are_to_be_kept_and_two_at_least(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, keep: int, stay: int
) -> None:
    numbers = []
    for _ in range(5):
        newer = rewritten(bundle, tmp_path)
        ship(newer, local, "digits", keep=keep)
        numbers.append(newer.manifest.release)
    assert sorted(int(path.name) for path in (models(local) / "digits" / "releases").iterdir()) == numbers[-stay:]
    assert nothing_left_over(local)


def of_two_precisions(bundle: Bundle, folder: Path, manifest: Manifest) -> Bundle:
    """The same network with its float32 file beside the int8 one."""
    assert bundle.samples is not None
    content = made.FLOAT32.read_bytes()
    samples = dataclasses.replace(bundle.samples, float_outputs=run_tflite(content, bundle.samples.images))
    model = bundle.model_path.read_bytes()
    return Bundle.write(folder, manifest, model, bundle.labels, samples, float_model=content)


def test_a_bundle_of_two_precisions(local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    both = of_two_precisions(bundle, tmp_path / "both", rewritten(bundle, tmp_path).manifest)
    assert both.precisions == ("int8", "float32")
    shipped = ship(both, local, "digits", precision="float32")
    assert shipped.agreement_on_device == 1.0
    released = (models(local) / "digits" / "current" / "model.tflite").read_bytes()
    assert released == both.model_of("float32").read_bytes()
    assert verify(local, "digits", bundle=both, measure=False).agreement_on_device == 1.0
    record = deployed(local)[0].record
    assert record is not None and record["precision"] == "float32"
    assert record["test_accuracy"] == bundle.manifest.accuracy.float_test
    with pytest.raises(InputError, match="has no float32 model, only int8"):
        ship(bundle, local, "digits", precision="float32")


def test_the_other_precision_is_held_to_the_studys_limits_too(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    asked = {"max_latency_ms": None, "max_model_kb": None, "max_arena_kb": bundle.manifest.predicted.arena_kb}
    strict = of_two_precisions(bundle, tmp_path / "strict", rewritten(bundle, tmp_path, limits=asked).manifest)
    with pytest.raises(
        CheckFailedError, match=r"float32 model is over the limits of its study: arena_kb .*Nothing was"
    ):
        ship(strict, local, "digits", precision="float32")
    assert not Path(local.folder).exists()
    ship(strict, local, "digits")
    waived = (*bundle.manifest.gates, Gate("limits", False, "too much", {}, allowed=True))
    manifest = rewritten(bundle, tmp_path, limits=asked, gates=waived).manifest
    ship(of_two_precisions(bundle, tmp_path / "waived", manifest), local, "digits", precision="float32")


def test_private_samples_stay_out(local: Device, bundle: Bundle, tmp_path: Path) -> None:
    private = Bundle.write(tmp_path / "b", bundle.manifest, bundle.model_path.read_bytes(), bundle.labels, None)
    shipped = ship(private, local, "digits")
    assert (shipped.active, shipped.agreement_on_device) == (bundle.manifest.release, None)
    assert next(check for check in shipped.checks if check.name == "agreement").passed is None


def test_a_simulated_table_is_refused(
    local: Device, bundle: Bundle, rewritten: Rewritten, table_of: TableOf, tmp_path: Path
) -> None:
    table = dataclasses.replace(table_of(local, 1.0), source="simulated")
    with pytest.raises(CheckFailedError, match="latency table given that is simulated"):
        ship(bundle, local, "digits", table=table)
    resting = rewritten(bundle, tmp_path, table=TableUsed("t", "simulated", table.identity))
    with pytest.raises(CheckFailedError, match="bundle rests on a latency table that is simulated"):
        ship(resting, local, "digits")
    assert not models(local).exists()


def test_a_hash_that_does_not_match_is_refused_and_sent_once(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    ship(bundle, local, "digits")
    one, said = bundle.manifest.release, list[str]()
    torn = rewritten(bundle, tmp_path)
    content = bytearray(torn.model_path.read_bytes())
    content[len(content) // 2] ^= 1
    torn.model_path.write_bytes(content)
    words = rf"model\.tflite: expected sha256.*still live: release {one} of 'digits'"
    with pytest.raises(CheckFailedError, match=words):
        ship(torn, local, "digits", progress=lambda what, done, of: said.append(what))
    assert live(local) == one
    assert nothing_left_over(local)
    assert said.count("checking on the device") == said.count("sending model.tflite") == 1, "it is wrong here"


@pytest.mark.parametrize(("wrong", "passes"), [(1, True), (2, False), (90, False)])
def test_other_answers_than_the_hosts_are_refused(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, wrong: int, passes: bool
) -> None:
    """Of the 90 samples the device may name another class on 2%."""
    ship(bundle, local, "digits")
    inside.answers = lambda outputs: _mirrored(outputs, wrong)
    newer = rewritten(bundle, tmp_path)
    if passes:
        shipped = ship(newer, local, "digits")
        assert shipped.agreement_on_device == pytest.approx(1 - wrong / 90)
        assert (shipped.active, live(local)) == (newer.manifest.release, newer.manifest.release)
        return
    words = r"same class as on the host on .* at least 98%.*old model is still live"
    with pytest.raises(CheckFailedError, match=words):
        ship(newer, local, "digits")
    assert live(local) == bundle.manifest.release
    assert nothing_left_over(local)
    assert inside.params_of("single") == inside.params_of("single")[:1], "a model that computes something else"


def _mirrored(outputs: Any, count: int) -> Any:
    """The first `count` rows of outputs name another class."""
    changed = outputs.copy()
    changed[:count] = 255 - changed[:count]
    return changed


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_model_kb=1.0), r"model_kb \d[\d.]* of at most 1 IS TOO MUCH"),
        (Limits(max_arena_kb=0.5), r"arena_kb \d[\d.]* of at most 0\.5 IS"),
        (Limits(max_peak_memory_kb=1.5, max_model_kb=1000), r"peak_memory_kb \d[\d.]* of at most 1\.5 IS"),
    ],
)
def test_larger_than_the_device_allows_is_refused_before_anything_is_sent(
    local: Device, bundle: Bundle, limits: Limits, words: str
) -> None:
    with pytest.raises(
        CheckFailedError, match=rf"^here: the model is over the device's limits: .*{words}.*Nothing was"
    ):
        ship(bundle, dataclasses.replace(local, limits=limits), "digits")
    assert not Path(local.folder).exists()


def test_within_what_the_device_allows_it_goes(local: Device, bundle: Bundle) -> None:
    limits = Limits(max_model_kb=1000, max_arena_kb=1000, max_peak_memory_kb=1000)
    assert ship(bundle, dataclasses.replace(local, limits=limits), "digits", dry_run=True).limit_ms is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs root, to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_no_room_is_refused(small_disk: Path, bundle: Bundle, big_bundle: Bundle) -> None:
    device = Device("here", "local:", folder=str(small_disk / "work"))
    ship(bundle, device, "digits")
    one = bundle.manifest.release
    words = rf"1\.\d MB are needed and 1 MB to spare.*\d MB free.*still live: release {one}"
    with pytest.raises(CheckFailedError, match=words):
        ship(big_bundle, device, "digits")
    assert live(device) == one
    assert nothing_left_over(device)


def test_what_came_of_a_cut_upload_and_was_spoiled_since_does_no_harm(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """A power cut may leave other bytes in what had arrived: they never go live, and the same command gets there."""
    ship(bundle, local, "digits")
    newer = rewritten(bundle, tmp_path, steps=7)
    sha = files.sha256(newer.folder / "manifest.json")
    part, blob = (Path(local.folder, "blobs", name) for name in (f"{sha}.part", sha))
    part.write_bytes(b"\0" * 300)
    blob.write_bytes(b"\0" * 300)
    assert ship(newer, local, "digits").active == newer.manifest.release
    assert not part.exists() and nothing_left_over(local)


def test_names_are_checked_before_anything_is_sent(local: Device, bundle: Bundle) -> None:
    for call in (lambda: ship(bundle, local, "../x"), lambda: rollback(local, "../x")):
        with pytest.raises(InputError, match="is no name for a model"):
            call()
    with pytest.raises(InputError, match="no model 'digits' was ever put"):
        rollback(local, "digits")
    assert deployed(local) == []
