"""Bundles to phones, with the real adb client: live only when all is well there; otherwise the old model stays."""

import contextlib
import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import edgenas.files as files
from edgenas.cli.main import cli
from edgenas.deploy import Bundle, deployed, rollback, ship, verify
from edgenas.deploy.fleet import Rollout, ship_to_all
from edgenas.deploy.keys import SigningKey
from edgenas.deploy.phone_releases import PhoneReleases
from edgenas.device import Device, Limits, Runtime, connect, open_phone, phone_delegate
from edgenas.errors import CheckFailedError, DeviceError, InputError, UnreachableError, WentBackError
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.certificate import Certificate, Network
from edgenas.model import converter_version
from tests.adb.lab import AdbServer, LabPhone, quicken
from tests.deploy.conftest import SMALL

Make = Callable[..., LabPhone]
Rewritten = Callable[..., Bundle]
APP = "com.example.digits"
PHONE_RUNTIME = Runtime("benchmark-model", benchmark_model="x")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer passes and shorter processes: what they find is real all the same."""
    quicken(monkeypatch, most_moved=2.0)


@pytest.fixture
def make_canned(make_phone: Make) -> Make:
    """Makes phones whose benchmark_model says the same of every model: for what has nothing to do with time."""
    return lambda: make_phone(style="canned")


@pytest.fixture(scope="module")
def canned_phone(tmp_path_factory: pytest.TempPathFactory, adb_server: AdbServer) -> Iterator[LabPhone]:
    """One such phone, that no test unplugs."""
    phone = LabPhone(tmp_path_factory.mktemp("phone"), adb_server, style="canned")
    yield phone
    phone.stop()


@pytest.fixture(params=["link", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("file", "android"))])
def own_phone(request: pytest.FixtureRequest, make_phone: Make) -> LabPhone:
    """Phones: with links, without, and with Android's own shell and tools."""
    phone = make_phone(android=request.param == "android")
    if request.param == "file":
        phone.replace("ln", 'echo "ln: Operation not permitted" >&2; exit 1')
    return phone


def current(folder: Path) -> Path:
    """The release that an application finds."""
    path = folder / "current"
    return path.resolve() if path.is_symlink() else folder / path.read_text().strip()


def models(phone: LabPhone) -> Path:
    return phone.home / "edgenas" / "models"


def live(phone: LabPhone) -> int | None:
    found = deployed(phone.device())
    return found[0].release if found else None


def left_over(phone: LabPhone) -> list[str]:
    """What should not be there: parts, staging folders, files of a measurement."""
    names = {".staging", ".current-new", "bench", "to-app"}
    found = [path for path in phone.root.rglob("*") if path.name in names or path.suffix == ".part"]
    return [str(path.relative_to(phone.root)) for path in found]


def table_of(device: Device, predicted_us: float) -> LatencyTable:
    """A table of a phone that says SMALL takes `predicted_us`, give or take 40%."""
    with contextlib.ExitStack() as stack:
        phone = open_phone(device, stack)
        info, version = phone.info, phone.runtime_version()
    perfect = tuple(Network(str(SMALL), 1.0, 1.0, 1.0) for _ in range(10))
    wide = tuple(Network(str(SMALL), 1.0, 1.0, 1 - error / 100) for error in range(10, 40, 3))
    return LatencyTable(
        identity=Identity(
            device.name, info.fingerprint, info.cpu, info.cores, 1, info.os, info.kernel, info.firmware, "",
            "benchmark-model", version, phone_delegate(device) or "", 1, None, "int8", converter_version(),
        ),
        source="measured",
        reference=(str(SMALL), 10.0),
        empty_us=0.1,
        entries={layer: Entry(predicted_us / len(SMALL.layers()), 0.01, None) for layer in SMALL.layers()},
        certificate=Certificate(perfect, wide),
    )  # fmt: skip


def test_from_a_bundle_to_a_live_model_and_back(
    own_phone: LabPhone, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
):
    device, number = own_phone.device(), bundle.manifest.release
    second, third = (rewritten(bundle, tmp_path) for _ in range(2))
    first = ship(bundle, device, "digits")
    assert (first.active, first.previous, first.release, first.agreement_on_device) == (number, None, number, None)
    assert 0 < first.latency_ms["median"] <= first.latency_ms["p90"]
    assert [(check.name, check.passed) for check in first.checks] == [
        ("hashes", True), ("signature", None), ("agreement", None), ("promise", None)
    ]  # fmt: skip
    assert "hashes only, no signatures" in first.checks[1].detail
    released = current(models(own_phone) / "digits")
    assert sorted(path.name for path in released.iterdir()) == ["labels.txt", "manifest.json", "model.tflite"]
    assert files.sha256(released / "model.tflite") == bundle.manifest.files["model.tflite"]
    again = ship(bundle, device, "digits")
    assert (again.active, again.previous) == (number, number)

    shipped = ship(second, device, "digits", table=table_of(device, 1e6))
    assert (shipped.active, shipped.previous) == (second.manifest.release, number)
    assert (shipped.promise, shipped.promise_kept) == ("kept", True)
    assert shipped.normalised_ms == pytest.approx(0.01, rel=0.6), "the reference is the same network: 10 us"
    shipped = ship(third, device, "digits", table=table_of(device, 0.01))
    assert (shipped.active, shipped.promise) == (third.manifest.release, "broken")
    assert left_over(own_phone) == []

    found = deployed(device)[0]
    assert (found.name, found.release, found.previous) == ("digits", third.manifest.release, second.manifest.release)
    assert str(found.since).startswith("20")
    assert found.record is not None
    assert found.record["test_accuracy"] == bundle.manifest.accuracy.test
    kept = sorted(path.name for path in (models(own_phone) / "digits" / "releases").iterdir())
    assert kept == [str(second.manifest.release), str(third.manifest.release)]
    with pytest.raises(CheckFailedError, match=r"is older than release .* The old model is still live"):
        ship(bundle, device, "digits")
    back = rollback(device, "digits")
    assert (back.active, back.previous) == (second.manifest.release, third.manifest.release)
    assert current(models(own_phone) / "digits").name == str(second.manifest.release)
    with pytest.raises(CheckFailedError, match="no earlier release"):
        rollback(device, "digits")
    with pytest.raises(CheckFailedError, match=rf"release {number} of digits is not kept on this device; it has"):
        rollback(device, "digits", number)
    assert rollback(device, "digits", third.manifest.release).active == third.manifest.release
    with pytest.raises(InputError, match="no model 'other' was ever put"):
        rollback(device, "other")


def test_verify_looks_at_what_is_live_again(make_phone: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path):
    phone = make_phone()
    device = phone.device()
    with pytest.raises(InputError, match="no model 'digits' is live there"):
        verify(device, "digits")
    shipped = ship(bundle, device, "digits")
    found = verify(device, "digits", bundle=bundle)
    assert (found.release, found.signed_by, found.agreement_on_device) == (bundle.manifest.release, None, None)
    assert found.latency_ms_when_shipped == shipped.latency_ms
    assert found.latency_ms is not None
    assert 0.2 < found.latency_ms["median"] / shipped.latency_ms["median"] < 5, "the same model on the same machine"
    assert verify(device, "digits", measure=False).latency_ms is None
    with pytest.raises(CheckFailedError, match=r"the bundle .* is another one"):
        verify(device, "digits", bundle=rewritten(bundle, tmp_path))
    folder = current(models(phone) / "digits")
    whole = (folder / "labels.txt").read_bytes()
    (folder / "labels.txt").write_bytes(whole + b"x")
    with pytest.raises(CheckFailedError, match=r"labels\.txt is not what was sent: expected sha256 .*, received"):
        verify(device, "digits")
    (folder / "labels.txt").write_bytes(whole)
    for name in ("odd\nname", ".odd", "..odd", "...", "-odd"):
        (folder / name).touch()
        with pytest.raises(CheckFailedError, match="was not expected"):
            verify(device, "digits")
        (folder / name).unlink()
    (folder / "odd").symlink_to("nowhere")
    with pytest.raises(CheckFailedError, match="'odd' was not expected"):
        verify(device, "digits")
    (folder / "odd").unlink()
    (folder / "model.tflite").unlink()
    with pytest.raises(CheckFailedError, match=r"model\.tflite is missing"):
        verify(device, "digits")
    assert left_over(phone) == []


def test_a_signature_travels_though_nothing_there_checks_it(
    make_canned: Make, bundle: Bundle, rewritten: Rewritten, keys: Callable[..., SigningKey], tmp_path: Path
):
    phone = make_canned()
    signed = rewritten(bundle, tmp_path, keys())
    shipped = ship(signed, phone.device(), "digits")
    assert next(check for check in shipped.checks if check.name == "signature").passed is None
    assert (current(models(phone) / "digits") / "manifest.sig").is_file()


@pytest.mark.long
def test_into_an_app_s_own_files(make_phone: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path):
    phone = make_phone()
    app = phone.install_app(APP)
    device = phone.device()
    assert ship(bundle, device, "digits", to_app=APP).active == bundle.manifest.release
    released = current(app / "files" / "edgenas" / "digits")
    assert files.sha256(released / "model.tflite") == bundle.manifest.files["model.tflite"]
    assert not models(phone).exists()
    newer = rewritten(bundle, tmp_path)
    ship(newer, device, "digits", to_app=APP)
    assert [found.release for found in deployed(device, to_app=APP)] == [newer.manifest.release]
    assert deployed(device) == []
    assert rollback(device, "digits", to_app=APP).active == bundle.manifest.release
    assert verify(device, "digits", to_app=APP).latency_ms is not None
    assert left_over(phone) == []


@pytest.mark.parametrize(
    ("package", "error", "words"),
    [
        ("com.example.release", DeviceError, "package not debuggable.*install a debuggable build"),
        ("com.example.nothing", DeviceError, "unknown package"),
        ("com.example;touch canary", InputError, "is no Android package"),
        ("../com.example", InputError, "is no Android package"),
        ("-x.y", InputError, "is no Android package"),
        ("digits", InputError, "is no Android package"),
    ],
)
def test_an_app_that_cannot_be_reached(phone: LabPhone, bundle: Bundle, package: str, error: type, words: str):
    if not (phone.root / "apps" / "com.example.release").exists():
        phone.install_app("com.example.release", debuggable=False)
    with pytest.raises(error, match=words):
        ship(bundle, phone.device(), "digits", to_app=package)


def test_only_a_phone_has_apps(bundle: Bundle, local: Device):
    for work in (
        lambda: ship(bundle, local, "digits", to_app=APP),
        lambda: deployed(local, to_app=APP),
        lambda: rollback(local, "digits", to_app=APP),
        lambda: verify(local, "digits", to_app=APP),
    ):
        with pytest.raises(InputError, match="is no phone"):
            work()


def test_slower_than_its_limit(make_phone: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path):
    phone = make_phone()
    newer = rewritten(bundle, tmp_path)
    strict = phone.device(limits=Limits(max_latency_ms=1e-4))
    with pytest.raises(CheckFailedError, match=r"slower than its limit: .* Nothing was put live"):
        ship(bundle, strict, "digits")
    assert not (models(phone) / "digits").exists()
    ship(bundle, phone.device(), "digits")
    with pytest.raises(CheckFailedError, match=r"slower than its limit: .* The old model is still live: release 2"):
        ship(newer, strict, "digits")
    assert live(phone) == bundle.manifest.release
    assert left_over(phone) == []
    dry = ship(newer, phone.device(), "digits", dry_run=True)
    assert (dry.active, dry.dry_run, live(phone)) == (bundle.manifest.release, True, bundle.manifest.release)
    assert left_over(phone) == []


def test_a_phone_without_room(make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path):
    phone = make_canned()
    ship(bundle, phone.device(), "digits")
    phone.replace("df", "echo head; echo disk 100 99 1 99% /data")
    with pytest.raises(CheckFailedError, match=r"the phone has 1 kB free\. The old model is still live"):
        ship(rewritten(bundle, tmp_path), phone.device(), "digits")
    assert left_over(phone) == []


def test_a_file_that_is_damaged_on_the_phone_is_caught(
    make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
):
    """The phone's storage gives back something else than was written, once the files are looked at in their folder."""
    phone = make_canned()
    ship(bundle, phone.device(), "digits")
    phone.replace("sha256sum", '[ -e model.tflite ] && printf x >> labels.txt; exec /usr/bin/sha256sum "$@"')
    with pytest.raises(CheckFailedError, match=r"labels\.txt is not what was sent.*The old model is still live"):
        ship(rewritten(bundle, tmp_path), phone.device(), "digits")
    (phone.bin / "sha256sum").unlink()
    assert live(phone) == bundle.manifest.release
    assert left_over(phone) == []


def test_what_is_damaged_by_the_switch_is_taken_back(
    make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
):
    phone = make_canned()
    ship(bundle, phone.device(), "digits")
    once = '[ -e "$PHONE/once" ] || { touch "$PHONE/once"; printf x >> "$2/labels.txt"; }'
    phone.replace("ln", f'/bin/ln "$@"; {once}')
    newer = rewritten(bundle, tmp_path)
    with pytest.raises(
        WentBackError,
        match=r"could not be made live, and was taken back: labels\.txt is not what.*The old model is still live",
    ):
        ship(newer, phone.device(), "digits")
    assert live(phone) == bundle.manifest.release
    assert verify(phone.device(), "digits", measure=False).release == bundle.manifest.release
    assert ship(newer, phone.device(), "digits").active == newer.manifest.release, "the damaged one is replaced"


@pytest.mark.parametrize("android", [False, pytest.param(True, marks=pytest.mark.long)])
def test_what_cannot_be_noted_is_taken_back(
    make_phone: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, android: bool
):
    """As on a board: the history is full after half a line."""
    phone = make_phone(style="canned", android=android)
    device, newer = phone.device(), rewritten(bundle, tmp_path)
    (phone.bin / "cat").unlink(missing_ok=True)
    write = 'head -c 20; echo "cat: write error: No space left on device" >&2; exit 1'
    real = f"{shutil.which('toybox')} cat" if android else "/bin/cat"
    phone.replace("cat", f'[ -e "$PHONE/full" ] && [ -d releases ] && [ "$#" = 0 ] && {{ {write}; }}; exec {real} "$@"')
    full = phone.root / "full"
    full.touch()
    with pytest.raises(WentBackError, match=r"taken back: .*No space left on device.* Nothing was put live"):
        ship(bundle, device, "digits")
    full.unlink()
    ship(bundle, device, "digits")
    history = models(phone) / "digits" / "history.jsonl"
    before = history.read_bytes()
    full.touch()
    with pytest.raises(WentBackError, match=r"taken back: .*No space left on device.* The old model is still live"):
        ship(newer, device, "digits")
    assert history.read_bytes() == before, "what did not come to pass is not history"
    full.unlink()
    assert live(phone) == bundle.manifest.release
    kept = [path.name for path in (models(phone) / "digits" / "releases").iterdir()]
    assert kept == [str(bundle.manifest.release)], "what never came to be live takes no room"
    assert ship(newer, device, "digits").active == newer.manifest.release
    full.touch()
    with pytest.raises(WentBackError, match=r"taken back: .*No space left on device"):
        rollback(device, "digits")
    assert live(phone) == newer.manifest.release
    full.unlink()
    assert rollback(device, "digits").active == bundle.manifest.release


def test_a_switch_that_was_cut_before_its_note_and_then_cannot_be_noted(
    make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    phone = make_canned()
    device, newer, newest = phone.device(), rewritten(bundle, tmp_path), rewritten(bundle, tmp_path)

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
    assert live(phone) == newest.manifest.release
    refuse(DeviceError)
    with pytest.raises(WentBackError, match=rf"taken back: no note\. The old .*: release {newer.manifest.release} "):
        ship(newest, device, "digits", keep=3)
    assert live(phone) == newer.manifest.release

    # The same of a rollback: given again it does not go back twice.
    monkeypatch.setattr(PhoneReleases, "note", real)
    ship(newest, device, "digits", keep=3)
    refuse(UnreachableError)
    with pytest.raises(UnreachableError):
        rollback(device, "digits")
    assert live(phone) == newer.manifest.release
    monkeypatch.setattr(PhoneReleases, "note", real)
    for again in (None, bundle.manifest.release):
        done = rollback(device, "digits", again)
        expected = (newer, newest) if again is None else (bundle, newer)
        assert (done.active, done.previous) == tuple(one.manifest.release for one in expected)


def test_a_rollback_does_not_cross_a_shipment(make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path):
    phone = make_canned()
    device, newer = phone.device(), rewritten(bundle, tmp_path)
    ship(bundle, device, "digits")
    ship(newer, device, "digits")
    with contextlib.ExitStack() as stack:
        shipping = open_phone(device, stack)
        shipping.lock()
        with pytest.raises(DeviceError, match="is being measured by"):
            rollback(device, "digits")
        with pytest.raises(DeviceError, match="release 7 is not there"):
            PhoneReleases(shipping.connection).point("digits", 7)
    assert live(phone) == newer.manifest.release
    assert rollback(device, "digits").active == bundle.manifest.release


def test_two_releases_stay_whatever_is_asked_for(
    make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
):
    """As on a board; and a big model has the time that it needs."""
    phone = make_canned()
    bundles = [bundle, *(rewritten(bundle, tmp_path) for _ in range(3))]
    for one in bundles:
        ship(one, phone.device(), "digits", keep=0)
    kept = sorted(int(path.name) for path in (models(phone) / "digits" / "releases").iterdir())
    assert kept == [one.manifest.release for one in bundles[2:]]


def test_a_big_model_has_the_time_that_it_needs(phone: LabPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    big = tmp_path / "model.tflite"
    with big.open("wb") as file:
        file.truncate(10_000_000)
    given: list[float] = []
    with connect(phone.device()) as connection:
        monkeypatch.setattr(connection, "put", lambda local, remote, timeout_s: given.append(timeout_s))
        PhoneReleases(connection).put(big, "staging", "model.tflite")
    assert given == [2600], "at 5 kB/s, as to a board"


@pytest.mark.parametrize(
    "cut_after", [60_000, *(pytest.param(bytes_, marks=pytest.mark.long) for bytes_ in (2_000, 400_000, 1_000_000))]
)
def test_a_cable_that_comes_out_leaves_the_old_model_and_the_same_command_finishes(
    make_canned: Make, bundle: Bundle, big_bundle: Bundle, cut_after: int
):
    phone, other = make_canned(), make_canned()
    device = phone.device()
    ship(bundle, device, "digits")
    ship(bundle, other.device("other"), "digits")
    before = files.sha256(current(models(phone) / "digits") / "model.tflite")
    phone.adbd.cut_after = cut_after
    with pytest.raises(UnreachableError, match=r"(offline|is attached|link broke)") as caught:
        ship(big_bundle, device, "digits")
    assert "\n" not in str(caught.value)
    assert files.sha256(current(models(phone) / "digits") / "model.tflite") == before
    assert live(other) == bundle.manifest.release, "the other phone is none the worse"
    phone.plug_in()
    assert live(phone) == bundle.manifest.release
    assert ship(big_bundle, device, "digits").active == big_bundle.manifest.release
    assert left_over(phone) == []
    assert rollback(device, "digits").active == bundle.manifest.release


@pytest.mark.long
@pytest.mark.parametrize("step", ["stage", "put", "verify", "adopt", "point", "note", "prune"])
def test_a_cut_at_any_step_leaves_the_old_or_the_new_and_the_same_command_finishes(
    make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    phone = make_canned()
    device, newer = phone.device(), rewritten(bundle, tmp_path)
    ship(bundle, device, "digits")

    def cut(*_: object, **__: object) -> None:
        phone.adbd.unplug()
        with connect(device) as connection:
            connection.run(["true"])

    with monkeypatch.context() as patch:
        patch.setattr(PhoneReleases, step, cut)
        with pytest.raises(UnreachableError):
            ship(newer, device, "digits")
    served = current(models(phone) / "digits")
    assert served.name in (str(bundle.manifest.release), str(newer.manifest.release))
    assert files.sha256(served / "model.tflite") == bundle.manifest.files["model.tflite"]
    phone.plug_in()
    assert ship(newer, device, "digits").active == newer.manifest.release
    assert verify(device, "digits", measure=False).release == newer.manifest.release
    assert left_over(phone) == []
    assert rollback(device, "digits").active == bundle.manifest.release


def test_a_torn_history_is_read_as_far_as_it_goes(
    make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
):
    phone = make_canned()
    device = phone.device()
    bundles = [bundle, *(rewritten(bundle, tmp_path) for _ in range(2))]
    numbers = [one.manifest.release for one in bundles]
    for one in bundles[:2]:
        ship(one, device, "digits")
    history = models(phone) / "digits" / "history.jsonl"
    history.write_text(history.read_text() + '{"event": "activ')
    assert ship(bundles[2], device, "digits").active == numbers[2]
    assert deployed(device)[0].previous == numbers[1]
    events = [json.loads(line) for line in history.read_text().splitlines() if line.endswith("}")]
    assert [event["release"] for event in events] == numbers


def test_on_the_command_line(
    make_canned: Make, bundle: Bundle, rewritten: Rewritten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    make_canned().device().save()

    def gets(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    bundles = [bundle, rewritten(bundle, tmp_path)]
    one, two = (str(made.manifest.release) for made in bundles)
    for made in bundles:
        assert gets("ship", str(made.folder), "phone", "--as", "digits")["active"] == made.manifest.release
    assert gets("verify", "phone", "digits", "--bundle", str(bundles[1].folder))["release"] == int(two)
    assert gets("rollback", "phone", "digits")["active"] == int(one)
    (model,) = gets("deployed", "phone", "--measure")["models"]
    assert (model["release"], model["wrong"]) == (int(one), None)


def test_a_fleet_of_phones(make_canned: Make, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One is off, and is caught up with later."""
    phones_there = [make_canned() for _ in range(3)]
    devices = [phone.device(f"phone-{number}") for number, phone in enumerate(phones_there)]
    phones_there[1].adbd.unplug()
    outcomes = ship_to_all(bundle, devices, "digits", Rollout(canary=1, wave=1))
    assert [outcome.state for outcome in outcomes] == ["changed", "off", "changed"]
    phones_there[1].plug_in()
    outcomes = ship_to_all(bundle, devices, "digits", Rollout(canary=1, wave=1))
    assert [outcome.state for outcome in outcomes] == ["ok", "changed", "ok"]


# Names, labels and paths that would be shell text, or lead out of their folder

HOSTILE = ["$(touch canary)", "`touch canary`", "; touch canary", "a'b\"c", "new\nline", "..", "../../x", "-rf",
           "é漢😀", "a b", "*", "~", "$HOME", "\\", "a\tb", "\x1b[31m", "'; touch canary; '"]  # fmt: skip
NUMBERS = itertools.count(1)
words = st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=20))


def canaries(phone: LabPhone) -> list[Path]:
    """What a name touched that was executed: the phone's shells begin in its root, and all else is below it."""
    return [path for path in phone.root.rglob("*") if path.name == "canary"]


def test_the_canary_is_not_blind(make_canned: Make):
    """An argument that nobody quotes is executed where it would be by a fault of EdgeNAS."""
    phone = make_canned()
    for number, word in enumerate(("$(touch canary)", "`touch canary`", "; touch canary"), 1):
        phone.server.adb("-s", phone.serial, "shell", f"set -- {word}; cd {phone.home}; true")
        assert canaries(phone) == [phone.root / "canary"], number
        (phone.root / "canary").unlink()


@given(name=words)
def test_a_name_that_is_none_is_refused_before_anything_is_opened(name: str):
    device = Device("gone", "adb:GONE", runtime=PHONE_RUNTIME)
    if files._NAME.fullmatch(name):
        return
    for work in (
        lambda: rollback(device, name),
        lambda: ship(None, device, name),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match="is no name for a model"):
            work()


@pytest.mark.long
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(words, min_size=1, max_size=3), content=st.binary(max_size=100))
def test_paths_reach_the_phone_as_they_are(phone: LabPhone, tmp_path: Path, parts: list[str], content: bytes):
    """Whatever a file is called here or there: it arrives under that name, and nothing is executed."""
    parts = [part.replace("/", "_").replace("\0", "_").encode(errors="replace").decode() for part in parts]
    parts = [f"x{part}" if part in (".", "..") else part for part in parts]
    source = tmp_path / "source" / parts[-1]
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(content)
    remote = phone.home / "hostile" / Path(*parts)
    with connect(phone.device()) as connection:
        connection.put(source, str(remote))
        assert remote.read_bytes() == content
        back = tmp_path / "back"
        connection.get(str(remote), back)
        assert back.read_bytes() == content
        said = connection.run(["printf", "<%s>", *parts])
        assert said.stdout == "".join(f"<{part}>" for part in parts)
        connection.run(["rm", "-rf", "--", str(phone.home / "hostile")])
    assert canaries(phone) == []
    assert not (tmp_path / "canary").exists(), "here"
    assert not Path("canary").exists(), "here"


@pytest.mark.long
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(st.sampled_from([word for word in HOSTILE if "\n" not in word]), min_size=10, max_size=10),
       study=words)  # fmt: skip
def test_labels_and_studies_that_would_be_commands(
    canned_phone: LabPhone, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, labels: list[str], study: str
):
    study = study.encode(errors="replace").decode()
    again = dataclasses.replace(bundle.manifest.study, name=study)
    manifest = dataclasses.replace(bundle.manifest, study=again, release=next(NUMBERS))
    folder = tmp_path_factory.mktemp("hostile") / "-b $(touch canary)"
    odd = Bundle.write(folder, manifest, bundle.model_path.read_bytes(), labels, bundle.samples)
    phone, device = canned_phone, canned_phone.device()
    ship(odd, device, "hostile")
    released = current(models(phone) / "hostile")
    assert (released / "labels.txt").read_bytes() == (odd.folder / "labels.txt").read_bytes()
    (found,) = [one for one in deployed(device) if one.name == "hostile"]
    assert found.record is not None
    assert found.record["study"] == study
    assert verify(device, "hostile", measure=False).release == found.release
    assert canaries(phone) == []
    assert not Path("canary").exists(), "here"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.one_of(words, st.sampled_from(["releases/../../x", "releases/-1", "releases/9" * 9, "releases/1 2"])))
@example("releases/1")
@example("releases/\u0661")
@example("x\x85release 7")
def test_what_a_phone_says_of_its_releases_leads_nowhere(phone: LabPhone, said: str):
    folder = models(phone) / "odd"
    (folder / "releases" / "1").mkdir(parents=True, exist_ok=True)
    text = said.encode(errors="replace").replace(b"\0", b"")
    (folder / "current").write_bytes(text)
    (folder / "history.jsonl").write_bytes(b'{"event": "activate", "release": 1, "at": "x"}\n' + text)
    with connect(phone.device()) as connection:
        state = PhoneReleases(connection).state("odd")
    written = said.encode(errors="replace").decode().partition("\n")[0].replace("\0", "")
    assert state.live is None or written.strip() in (str(state.live), f"releases/{state.live}")
    assert state.releases == (1,)
    assert all(type(event["release"]) is int for event in state.events)
    assert canaries(phone) == []
