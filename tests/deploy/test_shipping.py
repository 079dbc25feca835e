"""A bundle goes live only when all is well on the device; otherwise the old model stays, and the message says why."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import edgenas.files as files
from edgenas.deploy import Bundle, Samples, deployed, rollback, ship, verify
from edgenas.deploy.manifest import Gate, Manifest
from edgenas.device import Agent, Device, Limits
from edgenas.errors import CheckFailedError, InputError, UnreachableError
from edgenas.latency.table import LatencyTable
from edgenas.model import build_model, convert, run_tflite
from tests.board import Board, Proxy
from tests.deploy.conftest import SMALL, on_board

Rewritten = Callable[..., Bundle]
TableOf = Callable[..., LatencyTable]


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


def test_from_a_bundle_to_a_live_model_and_back(
    device: Device, bundle: Bundle, rewritten: Rewritten, table_of: TableOf, tmp_path: Path
) -> None:
    first = ship(bundle, device, "digits")
    one = bundle.manifest.release
    assert (first.active, first.previous, first.dry_run) == (one, None, False)
    assert first.agreement_on_device == 1.0, "the same runtime on the same processor"
    assert first.largest_difference == 0
    assert 0 < first.latency_ms["median"] <= first.latency_ms["p90"]
    assert (first.promise, first.promise_kept) == ("unbacked", None)
    released = models(device) / "digits" / "current"
    assert sorted(path.name for path in released.iterdir()) == ["labels.txt", "manifest.json", "model.tflite"]
    assert nothing_left_over(device)
    assert files.sha256(released / "model.tflite") == bundle.manifest.files["model.tflite"]

    again = rewritten(bundle, tmp_path)
    two = again.manifest.release
    second = ship(again, device, "digits", table=table_of(device, 1e6))
    assert (second.active, second.previous) == (two, one)
    assert (second.promise, second.promise_kept) == ("kept", True)
    assert second.normalised_ms == pytest.approx(0.01, rel=0.5), "the reference is the same network: 10 us"
    assert second.predicted_ms == pytest.approx(1000)
    assert [(check.name, check.passed) for check in second.checks] == [
        ("hashes", True), ("signature", None), ("agreement", True), ("promise", True)
    ]  # fmt: skip

    found = deployed(device)[0]
    assert (found.name, found.release, found.previous) == ("digits", two, one)
    assert found.record is not None
    assert found.record["test_accuracy"] == bundle.manifest.accuracy.test
    back = rollback(device, "digits")
    assert (back.active, back.previous) == (one, two)
    assert live(device) == one
    with pytest.raises(CheckFailedError, match="no earlier release"):
        rollback(device, "digits")
    assert rollback(device, "digits", to=two).active == two
    checked = verify(device, "digits", bundle=again)
    assert (checked.release, checked.agreement_on_device, checked.signed_by) == (two, 1.0, None)
    assert checked.latency_ms is not None and checked.latency_ms["median"] > 0
    assert checked.latency_ms_when_shipped == second.latency_ms
    with pytest.raises(CheckFailedError, match=f"live is release {two} of 'digits', and the bundle .* is another one"):
        verify(device, "digits", bundle=bundle, measure=False)
    assert files.as_mapping(second)["latency_ms"] == second.latency_ms, "it can be written as JSON"


def test_a_promise_that_is_not_kept_is_said(local: Device, bundle: Bundle, table_of: TableOf) -> None:
    shipped = ship(bundle, local, "digits", table=table_of(local, 0.01))
    assert (shipped.promise, shipped.promise_kept) == ("broken", False)
    assert shipped.active == bundle.manifest.release


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"fingerprint": "0" * 12}, "another device or system"),
        ({"runtime_version": "1.0"}, r"measured with ai-edge-litert 1\.0"),
        ({"cores": (0,)}, "measured on cores"),
    ],
)
def test_a_table_of_something_else_backs_no_promise(
    local: Device, bundle: Bundle, table_of: TableOf, identity: dict[str, Any], words: str
) -> None:
    shipped = ship(bundle, local, "digits", table=table_of(local, 1e6, **identity), dry_run=True)
    assert (shipped.promise, shipped.promise_kept) == ("unbacked", None)
    promise = next(check for check in shipped.checks if check.name == "promise")
    assert re.search(words, promise.detail)


def test_a_table_without_a_certificate_or_the_layers_backs_no_promise(
    local: Device, bundle: Bundle, table_of: TableOf
) -> None:
    table = table_of(local, 1e6)
    assert table.certificate is not None
    failing = dataclasses.replace(table.certificate, networks=table.certificate.intervals)
    for changed, words in (
        (dataclasses.replace(table, certificate=None), "no certificate"),
        (dataclasses.replace(table, certificate=failing), "fails its own certificate: only"),
        (dataclasses.replace(table, entries=dict(list(table.entries.items())[:-1])), "lacks 1 layers"),
    ):
        shipped = ship(bundle, local, "digits", table=changed, dry_run=True)
        assert shipped.promise == "unbacked"
        assert words in shipped.checks[-1].detail


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


def of_two_precisions(bundle: Bundle, folder: Path, manifest: Manifest) -> Bundle:
    """The same network with its float32 file (of other weights) beside the int8 one."""
    assert bundle.samples is not None
    content = convert(build_model(SMALL), "float32")
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
    from edgenas.deploy.manifest import TableUsed

    resting = rewritten(bundle, tmp_path, table=TableUsed("t", "simulated", table.identity))
    with pytest.raises(CheckFailedError, match="bundle rests on a latency table that is simulated"):
        ship(resting, local, "digits")
    assert not models(local).exists()


def test_a_hash_that_does_not_match_is_refused(
    device: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    ship(bundle, device, "digits")
    one = bundle.manifest.release
    torn = rewritten(bundle, tmp_path)
    content = bytearray(torn.model_path.read_bytes())
    content[len(content) // 2] ^= 1
    torn.model_path.write_bytes(content)
    with pytest.raises(
        CheckFailedError, match=rf"model\.tflite: expected sha256.*still live: release {one} of 'digits'"
    ):
        ship(torn, device, "digits")
    assert live(device) == one
    assert nothing_left_over(device)


def test_other_answers_than_the_hosts_are_refused(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    ship(bundle, local, "digits")
    assert bundle.samples is not None
    wrong = Samples(bundle.samples.images, bundle.samples.labels, 255 - bundle.samples.outputs)
    content, manifest = bundle.model_path.read_bytes(), rewritten(bundle, tmp_path).manifest
    other = Bundle.write(tmp_path / "b", manifest, content, bundle.labels, wrong)
    with pytest.raises(
        CheckFailedError, match=r"same class as on the host on .* at least 98%.*old model is still live"
    ):
        ship(other, local, "digits")
    assert live(local) == bundle.manifest.release
    assert nothing_left_over(local)


def test_slower_than_its_limit_is_refused(device: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    ship(bundle, device, "digits")
    limited = rewritten(bundle, tmp_path, limits={"max_latency_ms": 1e-6})
    one = bundle.manifest.release
    words = rf"slower than its limit: .* ms measured \(.* to .*\), at most 1e-06 ms allowed.*still live: release {one}"
    with pytest.raises(CheckFailedError, match=words):
        ship(limited, device, "digits")
    assert live(device) == one
    assert nothing_left_over(device)


def test_the_devices_own_limit_holds_too_and_nothing_was_live(local: Device, bundle: Bundle) -> None:
    strict = dataclasses.replace(local, limits=Limits(max_latency_ms=1e-6))
    with pytest.raises(CheckFailedError, match=r"slower than its limit.*Nothing was put live"):
        ship(bundle, strict, "digits")
    assert deployed(local) == []


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


def test_room_is_asked_for_what_is_measured_beside_too(
    local: Device, bundle: Bundle, table_of: TableOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, int] = {}
    call = Agent.call

    def listen(agent: Agent, op: str, **params: Any) -> Any:
        if op == "prepare":
            asked["spare"] = params["spare_bytes"]
        if op == "unpack":
            folder = Path(params["folder"])
            asked["zipped"] = Path(params["archive"]).stat().st_size
            answer = call(agent, op, **params)
            asked["unpacked"] = sum(path.stat().st_size for path in folder.glob("beside_*.tflite"))
            return answer
        return call(agent, op, **params)

    monkeypatch.setattr(Agent, "call", listen)
    assert bundle.samples is not None
    samples = bundle.samples.images.nbytes + bundle.samples.outputs.nbytes
    for table in (None, table_of(local, 1e6)):
        ship(bundle, local, "digits", table=table, dry_run=True)
        assert asked["unpacked"] > 0
        assert 0 <= asked["zipped"] + asked["unpacked"] + samples - asked["spare"] < 4096, "but for the zip's own list"


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


def test_a_link_cut_in_mid_upload_leaves_the_old_model_and_the_upload_goes_on(
    board: Board, bundle: Bundle, big_bundle: Bundle, tmp_path: Path
) -> None:
    direct = on_board(board, tmp_path / "work")
    ship(bundle, direct, "digits")
    one, sha = bundle.manifest.release, big_bundle.manifest.files["model.tflite"]
    with Proxy(board.port) as proxy:
        proxy.cut_after = 600_000  # the agent is there already: this is within the model's 1.2 MB
        proxy.pause_s = 0.01
        words = f"the link broke.*The old model is still live: release {one} of 'digits'"
        with pytest.raises(UnreachableError, match=words):
            ship(big_bundle, on_board(board, tmp_path / "work", proxy.port), "digits")
    assert live(direct) == one
    part = tmp_path / "work" / "blobs" / f"{sha}.part"
    arrived = part.stat().st_size
    assert 0 < arrived < big_bundle.model_path.stat().st_size
    sent: list[int] = []
    shipped = ship(
        big_bundle, direct, "digits", progress=lambda what, done, of: sent.append(done) if "model" in what else None
    )
    assert (shipped.active, shipped.previous) == (big_bundle.manifest.release, one)
    assert min(done for done in sent if done) > arrived, "what had arrived is not sent again"
    assert nothing_left_over(direct)


def test_what_came_of_a_cut_upload_and_was_spoiled_since_does_no_harm(
    device: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """A power cut may leave other bytes in what had arrived: they never go live, and the same command gets there."""
    ship(bundle, device, "digits")
    newer = rewritten(bundle, tmp_path, epochs=7)
    sha = files.sha256(newer.folder / "manifest.json")
    part = Path(device.folder, "blobs", f"{sha}.part")
    part.write_bytes(b"\0" * 300)
    try:
        ship(newer, device, "digits")
    except CheckFailedError as refused:
        assert re.search(rf"expected sha256 {sha}.*still live: release {bundle.manifest.release}", str(refused))
        assert live(device) == bundle.manifest.release and nothing_left_over(device)
    assert ship(newer, device, "digits").active == newer.manifest.release
    assert not part.exists() and nothing_left_over(device)


def test_an_application_classifies_with_the_live_model(local: Device, bundle: Bundle, tmp_path: Path) -> None:
    """The example of the documentation, as a program of its own."""
    ship(bundle, local, "digits")
    assert bundle.samples is not None
    names = [str(tmp_path / f"{number}.png") for number in range(20)]
    for name, image in zip(names, bundle.samples.images, strict=False):
        Image.fromarray(image[:, :, 0]).save(name)
    program = Path(__file__).parents[2] / "examples" / "classify.py"
    argv = [sys.executable, str(program), str(models(local) / "digits"), *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    expected = [bundle.labels[place] for place in bundle.samples.outputs[:20].argmax(axis=1)]
    assert done.stdout.splitlines() == [f"{name}: {label}" for name, label in zip(names, expected, strict=True)]


def test_names_are_checked_before_anything_is_sent(local: Device, bundle: Bundle) -> None:
    for call in (lambda: ship(bundle, local, "../x"), lambda: rollback(local, "../x")):
        with pytest.raises(InputError, match="is no name for a model"):
            call()
    with pytest.raises(InputError, match="no model 'digits' was ever put"):
        rollback(local, "digits")
    assert deployed(local) == []
