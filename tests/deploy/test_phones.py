"""Bundles to phones, with the real adb client: live only when all is well there; otherwise the old model stays."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgenas.files as files
from edgenas.deploy import Bundle, deployed, rollback, ship
from edgenas.deploy.phone_releases import PhoneReleases
from edgenas.deploy.phones import verify_on_phone
from edgenas.device import Device, Limits, Runtime, connect, open_phone, phone_delegate
from edgenas.errors import CheckFailedError, DeviceError, InputError
from edgenas.latency.profiling import phone as phones
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.certificate import Certificate, Network
from edgenas.model import converter_version
from tests.adb.lab import LabPhone
from tests.deploy.conftest import SMALL

Make = Callable[..., LabPhone]
Rewritten = Callable[..., Bundle]
APP = "com.example.digits"
PHONE_RUNTIME = Runtime("benchmark-model", benchmark_model="x")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer passes and shorter processes: what they find is real all the same."""
    monkeypatch.setattr(phones, "LEAST_PASSES", 2)
    monkeypatch.setattr(phones, "MOST_PASSES", 2)
    monkeypatch.setattr(phones, "MOST_MOVED", 2.0)
    monkeypatch.setattr(phones, "LEAST_S", 0.01)
    monkeypatch.setattr(phones, "WARMUP_S", 0.01)
    monkeypatch.setattr(phones, "LONGEST_WAIT_S", 0.1)


@pytest.fixture(params=["link", "file"])
def own_phone(request: pytest.FixtureRequest, make_phone: Make) -> LabPhone:
    """A phone whose `mv` can replace a link, and one whose cannot."""
    phone = make_phone()
    if request.param == "file":
        (phone.bin / "mv").write_text(
            '#!/bin/sh\ncase $1 in *T*) echo "mv: Unknown option T" >&2; exit 1;; esac\nexec /bin/mv "$@"\n'
        )
        (phone.bin / "mv").chmod(0o755)
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


def test_from_a_bundle_to_a_live_model_and_back(own_phone: LabPhone, bundle: Bundle):
    device = own_phone.device()
    first = ship(bundle, device, "digits")
    assert (first.active, first.previous, first.agreement_on_device) == (1, None, None)
    assert 0 < first.latency_ms["median"] <= first.latency_ms["p90"]
    assert [(check.name, check.passed) for check in first.checks] == [
        ("hashes", True), ("signature", None), ("agreement", None), ("promise", None)
    ]  # fmt: skip
    assert "hashes only, no signatures" in first.checks[1].detail
    released = current(models(own_phone) / "digits")
    assert sorted(path.name for path in released.iterdir()) == ["labels.txt", "manifest.json", "model.tflite"]
    assert files.sha256(released / "model.tflite") == bundle.manifest.files["model.tflite"]

    second = ship(bundle, device, "digits", table=table_of(device, 1e6))
    assert (second.active, second.previous) == (2, 1)
    assert (second.promise, second.promise_kept) == ("kept", True)
    assert second.normalised_ms == pytest.approx(0.01, rel=0.6), "the reference is the same network: 10 us"
    third = ship(bundle, device, "digits", table=table_of(device, 0.01))
    assert (third.active, third.promise) == (3, "broken")
    assert left_over(own_phone) == []

    found = deployed(device)[0]
    assert (found.name, found.release, found.previous) == ("digits", 3, 2)
    assert str(found.since).startswith("20")
    assert found.record is not None
    assert found.record["test_accuracy"] == bundle.manifest.accuracy.test
    back = rollback(device, "digits")
    assert (back.active, back.previous) == (2, 3)
    assert current(models(own_phone) / "digits").name == "2"
    with pytest.raises(CheckFailedError, match="no earlier release"):
        rollback(device, "digits")
    assert sorted(path.name for path in (models(own_phone) / "digits" / "releases").iterdir()) == ["2", "3"]


def test_verify_looks_at_what_is_live_again(make_phone: Make, bundle: Bundle):
    phone = make_phone()
    device = phone.device()
    with pytest.raises(InputError, match="no model 'digits' is live there"):
        verify_on_phone(device, "digits")
    ship(bundle, device, "digits")
    found = verify_on_phone(device, "digits")
    assert (found.release, [(check.name, check.passed) for check in found.checks]) == (
        1, [("hashes", True), ("signature", None)]
    )  # fmt: skip
    folder = current(models(phone) / "digits")
    whole = (folder / "labels.txt").read_bytes()
    (folder / "labels.txt").write_bytes(whole + b"x")
    with pytest.raises(CheckFailedError, match=r"labels\.txt is not what was sent: expected sha256 .*, received"):
        verify_on_phone(device, "digits")
    (folder / "labels.txt").write_bytes(whole)
    (folder / "odd\nname").touch()
    with pytest.raises(CheckFailedError, match="was not expected"):
        verify_on_phone(device, "digits")
    (folder / "odd\nname").unlink()
    (folder / "model.tflite").unlink()
    with pytest.raises(CheckFailedError, match=r"model\.tflite is missing"):
        verify_on_phone(device, "digits")


def test_into_an_app_s_own_files(make_phone: Make, bundle: Bundle):
    phone = make_phone()
    app = phone.install_app(APP)
    device = phone.device()
    shipped = ship(bundle, device, "digits", to_app=APP)
    assert shipped.active == 1
    released = current(app / "files" / "edgenas" / "digits")
    assert files.sha256(released / "model.tflite") == bundle.manifest.files["model.tflite"]
    assert not models(phone).exists()
    ship(bundle, device, "digits", to_app=APP)
    assert [found.release for found in deployed(device, APP)] == [2]
    assert deployed(device) == []
    assert rollback(device, "digits", APP).active == 1
    assert verify_on_phone(device, "digits", APP).release == 1
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
        lambda: deployed(local, APP),
        lambda: rollback(local, "digits", APP),
    ):
        with pytest.raises(InputError, match="is no phone"):
            work()


def test_slower_than_its_limit(make_phone: Make, bundle: Bundle):
    phone = make_phone()
    ship(bundle, phone.device(), "digits")
    strict = phone.device(limits=Limits(max_latency_ms=1e-4))
    with pytest.raises(CheckFailedError, match=r"slower than its limit: .* The old model is still live: release 1"):
        ship(bundle, strict, "digits")
    assert live(phone) == 1
    assert left_over(phone) == []
    dry = ship(bundle, phone.device(), "digits", dry_run=True)
    assert (dry.active, dry.dry_run, live(phone)) == (1, True, 1)
    assert left_over(phone) == []


def test_a_phone_without_room(make_phone: Make, bundle: Bundle):
    phone = make_phone()
    ship(bundle, phone.device(), "digits")
    (phone.bin / "df").write_text("#!/bin/sh\necho head\necho disk 100 99 1 99% /data\n")
    (phone.bin / "df").chmod(0o755)
    with pytest.raises(CheckFailedError, match=r"the phone has 1 kB free\. The old model is still live: release 1"):
        ship(bundle, phone.device(), "digits")
    assert left_over(phone) == []


def test_a_file_that_changes_on_the_way_is_caught(make_phone: Make, bundle: Bundle):
    """The phone's storage gives back something else than was written."""
    phone = make_phone()
    ship(bundle, phone.device(), "digits")
    sha256sum = phone.bin / "sha256sum"
    sha256sum.write_text(
        '#!/bin/sh\n[ -e model.tflite ] && printf x >> labels.txt\nexec /usr/bin/sha256sum "$@"\n'
    )  # once the files are looked at in their folder
    sha256sum.chmod(0o755)
    with pytest.raises(CheckFailedError, match=r"labels\.txt is not what was sent.*The old model is still live"):
        ship(bundle, phone.device(), "digits")
    sha256sum.unlink()
    assert live(phone) == 1
    assert left_over(phone) == []


@pytest.mark.parametrize("cut_after", [2_000, 60_000, 400_000, 1_000_000])
def test_a_cable_that_comes_out_leaves_the_old_model_and_the_same_command_finishes(
    make_phone: Make, bundle: Bundle, big_bundle: Bundle, cut_after: int
):
    phone, other = make_phone(), make_phone()
    device = phone.device()
    ship(bundle, device, "digits")
    ship(bundle, other.device("other"), "digits")
    before = files.sha256(current(models(phone) / "digits") / "model.tflite")
    phone.adbd.cut_after = cut_after
    with pytest.raises(DeviceError, match=r"(offline|is attached|link broke).* The old model is still live") as caught:
        ship(big_bundle, device, "digits")
    assert "\n" not in str(caught.value)
    assert files.sha256(current(models(phone) / "digits") / "model.tflite") == before
    assert live(other) == 1, "the other phone is none the worse"
    phone.plug_in()
    assert live(phone) == 1
    assert ship(big_bundle, device, "digits").active == 2
    assert left_over(phone) == []
    assert rollback(device, "digits").active == 1


def test_a_shipment_cut_between_the_move_and_the_switch_is_finished(make_phone: Make, bundle: Bundle):
    """The release has its folder and its number, and is not live yet: with the same number the same command ends it."""
    phone = make_phone()
    device = phone.device()
    ship(bundle, device, "digits")
    folder = models(phone) / "digits"
    (folder / "releases" / "1").rename(folder / "releases" / "7")
    with connect(device) as connection:
        releases = PhoneReleases(connection)
        assert releases.state("digits").newest == 7
        hashes = {**bundle.manifest.files, "manifest.json": files.sha256(bundle.folder / "manifest.json")}
        del hashes["samples.npz"]
        releases.verify(releases.folder("digits", 7), hashes)
        releases.activate("digits", 7, {"sha256": hashes}, staged=False)
    assert live(phone) == 7
    assert verify_on_phone(device, "digits").release == 7


def test_a_torn_history_is_read_as_far_as_it_goes(make_phone: Make, bundle: Bundle):
    phone = make_phone()
    device = phone.device()
    ship(bundle, device, "digits")
    ship(bundle, device, "digits")
    history = models(phone) / "digits" / "history.jsonl"
    history.write_text(history.read_text() + '{"event": "activ')
    assert ship(bundle, device, "digits").active == 3
    assert deployed(device)[0].previous == 2
    events = [json.loads(line) for line in history.read_text().splitlines() if line.endswith("}")]
    assert [event["release"] for event in events] == [1, 2, 3]


# Names, labels and paths that would be shell text, or lead out of their folder

HOSTILE = ["$(touch canary)", "`touch canary`", "; touch canary", "a'b\"c", "new\nline", "..", "../../x", "-rf",
           "é漢😀", "a b", "*", "~", "$HOME", "\\", "a\tb", "\x1b[31m", "'; touch canary; '"]  # fmt: skip
words = st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=20))


def canaries(phone: LabPhone) -> list[Path]:
    return [path for path in phone.root.rglob("*") if "canary" in path.name]


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
    assert not (tmp_path / "canary").exists()
    assert not Path("canary").exists()


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(st.sampled_from([word for word in HOSTILE if "\n" not in word]), min_size=10, max_size=10),
       study=words)  # fmt: skip
def test_labels_and_studies_that_would_be_commands(
    phone: LabPhone, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, labels: list[str], study: str
):
    study = study.encode(errors="replace").decode()
    manifest = dataclasses.replace(bundle.manifest, study=dataclasses.replace(bundle.manifest.study, name=study))
    folder = tmp_path_factory.mktemp("hostile") / "-b $(touch canary)"
    odd = Bundle.write(folder, manifest, bundle.model_path.read_bytes(), labels, bundle.samples)
    device = phone.device()
    ship(odd, device, "hostile")
    released = current(models(phone) / "hostile")
    assert (released / "labels.txt").read_bytes() == (odd.folder / "labels.txt").read_bytes()
    (found,) = [one for one in deployed(device) if one.name == "hostile"]
    assert found.record is not None
    assert found.record["study"] == study
    assert verify_on_phone(device, "hostile").release == found.release
    assert canaries(phone) == []
    assert not Path("canary").exists()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.one_of(words, st.sampled_from(["releases/../../x", "releases/-1", "releases/9" * 9, "releases/1 2"])))
def test_what_a_phone_says_of_its_releases_leads_nowhere(phone: LabPhone, said: str):
    folder = models(phone) / "odd"
    (folder / "releases" / "1").mkdir(parents=True, exist_ok=True)
    text = said.encode(errors="replace").replace(b"\0", b"")
    (folder / "current").write_bytes(text)
    (folder / "history.jsonl").write_bytes(b'{"event": "activate", "release": 1, "at": "x"}\n' + text)
    with connect(phone.device()) as connection:
        state = PhoneReleases(connection).state("odd")
    assert state.live in (None, 1) or str(state.live) in said
    assert state.releases == (1,)
    assert all(type(event["release"]) is int for event in state.events)
    assert canaries(phone) == []
