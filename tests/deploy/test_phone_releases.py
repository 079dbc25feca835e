"""Releases on phones, script by script: with links, without them, and with Android's own shell and tools.

Nothing is measured or shipped here: see test_phone_shipping.py.
"""

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import edgenas.files as files
from edgenas.deploy import Bundle, deployed, rollback, ship, verify
from edgenas.deploy.phone_releases import PhoneReleases
from edgenas.device import Device, Runtime
from edgenas.errors import CheckFailedError, DeviceError, InputError
from tests.deploy.pocket import KINDS, Pocket, Wire

APP = "com.example.digits"
HOSTILE = ["$(touch canary)", "`touch canary`", "; touch canary", "a'b\"c", "new\nline", "..", "../../x", "-rf",
           "é漢😀", "a b", "*", "~", "$HOME", "\\", "a\tb", "\x1b[31m", "'; touch canary; '"]  # fmt: skip
words = st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=20))
examples = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=KINDS)
def phone(request: pytest.FixtureRequest, make_pocket: Callable[..., Pocket]) -> Pocket:
    return make_pocket(request.param)


@pytest.fixture(params=["shell", "app"])
def releases(request: pytest.FixtureRequest, phone: Pocket) -> PhoneReleases:
    """In the phone's work folder, and in an app's own files."""
    if request.param == "app":
        phone.install_app(APP)
    return PhoneReleases(Wire(phone.device(), phone), APP if request.param == "app" else None)


def root(phone: Pocket, releases: PhoneReleases) -> Path:
    """Where the models are."""
    return (
        phone.home / "edgenas" / "models" if releases._package is None else phone.root / "apps" / APP / releases._root
    )


def put(releases: PhoneReleases, release: int, folder: Path, event: str | None = "activate") -> dict[str, str]:
    """A release with a file of its own, live and noted; its hashes."""
    content, hashes = {"model.tflite": f"model {release}", "labels.txt": "a\nb\n"}, {}
    staging = releases.stage("net", 100)
    for file, text in content.items():
        (folder / file).write_text(text)
        releases.put(folder / file, staging, file)
        hashes[file] = hashlib.sha256(text.encode()).hexdigest()
    releases.verify(staging, hashes)
    releases.adopt("net", release)
    releases.point("net", release)
    if event is not None:
        releases.note("net", event, release, record={"sha256": hashes})
    return hashes


def current(folder: Path) -> Path:
    """The release that an application finds."""
    path = folder / "current"
    return path.resolve() if path.is_symlink() else folder / path.read_text().strip()


def canaries(phone: Pocket) -> list[Path]:
    """What a name touched that was executed."""
    places = phone.root.rglob("*"), Path.cwd().glob("canary")
    return [path for path in itertools.chain(*places) if path.name == "canary"]


def test_a_release_is_staged_verified_switched_to_and_pruned(
    phone: Pocket, releases: PhoneReleases, tmp_path: Path
) -> None:
    model = root(phone, releases) / "net"
    assert (releases.names(), releases.state("net").live) == ([], None)
    hashes = put(releases, 1, tmp_path)
    assert releases.names() == ["net"]
    assert current(model).name == "1" and (current(model) / "model.tflite").read_text() == "model 1"
    assert (model / "current").is_symlink() is ((phone.bin / "ln").is_symlink() or not (phone.bin / "ln").exists())
    for release in (2, 3, 4):
        put(releases, release, tmp_path)
    state = releases.state("net")
    assert (state.live, state.previous, state.releases, state.newest) == (4, 3, (1, 2, 3, 4), 4)
    assert [event["release"] for event in state.events] == [1, 2, 3, 4]
    assert all(str(event["at"]).startswith("20") for event in state.events)
    assert state.events[0]["record"] == {"sha256": hashes}
    releases.prune("net", 0)
    assert releases.state("net").releases == (3, 4), "two at least"
    releases.point("net", 3)
    releases.note("net", "rollback", 3, **{"from": 4})
    state = releases.state("net")
    assert (state.live, state.previous, current(model).name) == (3, None, "3")
    releases.remove("net", 4)
    releases.point("net", None)
    state = releases.state("net")
    assert (state.live, state.releases) == (None, (3,))
    with pytest.raises(DeviceError, match="release 7 is not there"):
        releases.point("net", 7)
    releases.stage("net", 100)
    releases.discard("net")
    assert sorted(path.name for path in model.iterdir()) == ["history.jsonl", "releases"]


def test_as_many_stay_as_are_to_be_kept(phone: Pocket, tmp_path: Path) -> None:
    releases = PhoneReleases(Wire(phone.device(), phone))
    for release in range(1, 6):
        put(releases, release, tmp_path)
    releases.prune("net", 3)
    assert releases.state("net").releases == (3, 4, 5)


def test_exactly_the_files_that_were_sent_are_there(phone: Pocket, releases: PhoneReleases, tmp_path: Path) -> None:
    hashes = put(releases, 1, tmp_path)
    folder, here = releases.folder("net", 1), root(phone, releases) / "net" / "releases" / "1"
    releases.verify(folder, hashes)
    (here / "labels.txt").write_text("other")
    with pytest.raises(CheckFailedError, match=r"labels\.txt is not what was sent: expected sha256 .*, received"):
        releases.verify(folder, hashes)
    (here / "labels.txt").write_text("a\nb\n")
    for name in ("odd\nname", ".odd", "..odd", "...", "-odd"):
        (here / name).touch()
        with pytest.raises(CheckFailedError, match="was not expected"):
            releases.verify(folder, hashes)
        (here / name).unlink()
    (here / "odd").symlink_to("nowhere")
    with pytest.raises(CheckFailedError, match="'odd' was not expected"):
        releases.verify(folder, hashes)
    (here / "odd").unlink()
    (here / "model.tflite").unlink()
    with pytest.raises(CheckFailedError, match=r"model\.tflite is missing"):
        releases.verify(folder, hashes)


def test_a_note_that_is_cut_by_a_full_disk_is_no_history(phone: Pocket, tmp_path: Path) -> None:
    """The history is full after half a line; a line that a power cut tore is left out."""
    releases = PhoneReleases(Wire(phone.device(), phone))
    put(releases, 1, tmp_path)
    history = root(phone, releases) / "net" / "history.jsonl"
    before = history.read_bytes()
    real = (phone.bin / "cat").resolve() if (phone.bin / "cat").exists() else Path("/bin/cat")
    (phone.bin / "cat").unlink(missing_ok=True)
    write = 'head -c 20; echo "cat: write error: No space left on device" >&2; exit 1'
    phone.replace("cat", f'[ "$#" = 0 ] && {{ {write}; }}; exec {real} {"" if real.name == "cat" else "cat"} "$@"')
    with pytest.raises(DeviceError, match="No space left on device"):
        releases.note("net", "activate", 2)
    assert history.read_bytes() == before
    (phone.bin / "cat").unlink()
    if real.name != "cat":
        (phone.bin / "cat").symlink_to(real)
    history.write_bytes(before + b'{"event": "activ')
    releases.note("net", "activate", 3)
    assert [event["release"] for event in releases.state("net").events] == [1, 3]


def test_a_file_that_a_program_of_the_shell_can_read(phone: Pocket, releases: PhoneReleases, tmp_path: Path) -> None:
    """An app's own files are out of its reach: they are copied."""
    put(releases, 1, tmp_path)
    path = Path(releases.reachable(releases.folder("net", 1), "model.tflite"))
    assert path.read_text() == "model 1"
    assert ("bench" in path.parts) is (releases._package is not None)
    assert not (phone.home / "edgenas" / "to-app").exists()


def test_into_an_app_s_own_files(
    pocket: Pocket, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path
) -> None:
    app, device = pocket.install_app(APP), pocket.device()
    assert ship(bundle, device, "digits", to_app=APP).active == bundle.manifest.release
    released = current(app / "files" / "edgenas" / "digits")
    assert files.sha256(released / "model.tflite") == bundle.manifest.files["model.tflite"]
    assert not (pocket.home / "edgenas" / "models").exists()
    newer = rewritten(bundle, tmp_path)
    ship(newer, device, "digits", to_app=APP)
    assert [found.release for found in deployed(device, to_app=APP)] == [newer.manifest.release]
    assert deployed(device) == []
    assert rollback(device, "digits", to_app=APP).active == bundle.manifest.release
    assert verify(device, "digits", to_app=APP).latency_ms is not None
    names = {".staging", ".current-new", "bench", "to-app"}
    assert not [path for path in pocket.root.rglob("*") if path.name in names]


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
def test_an_app_that_cannot_be_reached(
    pocket: Pocket, bundle: Bundle, package: str, error: type[Exception], words: str
) -> None:
    pocket.install_app("com.example.release", debuggable=False)
    with pytest.raises(error, match=words):
        ship(bundle, pocket.device(), "digits", to_app=package)
    assert canaries(pocket) == []


def test_only_a_phone_has_apps(bundle: Bundle, local: Device) -> None:
    for work in (
        lambda: ship(bundle, local, "digits", to_app=APP),
        lambda: deployed(local, to_app=APP),
        lambda: rollback(local, "digits", to_app=APP),
        lambda: verify(local, "digits", to_app=APP),
    ):
        with pytest.raises(InputError, match="is no phone"):
            work()


# Names that would be shell text, or lead out of their folder


@given(name=words)
def test_a_name_that_is_none_is_refused_before_anything_is_opened(name: str) -> None:
    device = Device("gone", "adb:GONE", runtime=Runtime("benchmark-model", benchmark_model="x"))
    if files._NAME.fullmatch(name):
        return
    for work in (
        lambda: rollback(device, name),
        lambda: ship(None, device, name),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match="is no name for a model"):
            work()


@pytest.mark.parametrize("folder", ["$(touch canary)'", "-rf", "a b/; touch canary;/`touch canary`", "~/x", 'é*"\\'])
def test_a_hostile_work_folder_is_one_folder(pocket: Pocket, tmp_path: Path, folder: str) -> None:
    pocket.install_app(APP)
    wire = Wire(pocket.device(folder=folder), pocket)
    for releases in (PhoneReleases(wire), PhoneReleases(wire, APP)):
        put(releases, 1, tmp_path)
        put(releases, 2, tmp_path)
        releases.prune("net", 0)
        releases.reachable(releases.folder("net", 2), "model.tflite")
        assert (releases.names(), releases.state("net").live) == (["net"], 2)
        releases.discard("net")
    assert Path(wire.folder).is_relative_to(pocket.home)
    inside = Path(wire.folder).relative_to(pocket.home).parts[0]
    assert [path.name for path in pocket.home.iterdir()] == [inside]
    assert (Path(wire.folder) / "models" / "net" / "current" / "model.tflite").read_text() == "model 2"
    assert canaries(pocket) == []


@examples
@given(said=st.one_of(words, st.sampled_from(["releases/../../x", "releases/-1", "releases/9" * 9, "releases/1 2"])))
@example("releases/1")
@example("releases/\u0661")
@example("x\x85release 7")
def test_what_a_phone_says_of_its_releases_leads_nowhere(phone: Pocket, said: str) -> None:
    folder = phone.home / "edgenas" / "models" / "odd"
    (folder / "releases" / "1").mkdir(parents=True, exist_ok=True)
    text = said.encode(errors="replace").replace(b"\0", b"")
    (folder / "current").write_bytes(text)
    (folder / "history.jsonl").write_bytes(b'{"event": "activate", "release": 1, "at": "x"}\n' + text)
    releases = PhoneReleases(Wire(phone.device(), phone))
    if text.partition(b"\n")[0] == b"releases/1":
        assert releases.state("odd").live == 1
    else:
        with pytest.raises(CheckFailedError, match=r"current is no link to one of its releases .*Remove it there"):
            releases.state("odd")
    (folder / "current").unlink()
    state = releases.state("odd")
    assert (state.live, state.releases) == (None, (1,))
    assert all(type(event["release"]) is int for event in state.events)
    assert canaries(phone) == []


def _elsewhere(model: Path) -> None:
    """The same number, the same files: but not below this model."""
    (model / "releases").rename(model.parent / "outside")
    (model / "releases" / "10").mkdir(parents=True)
    _leads_to(model, str(model.parent / "outside" / "10"))


def _leads_to(model: Path, where: str) -> None:
    (model / "current").unlink()
    (model / "current").symlink_to(where)


def _aside(path: Path) -> None:
    """The same through a link."""
    path.rename(path.parent / "aside")
    path.symlink_to("aside")


def _folder(model: Path) -> None:
    (model / "current").unlink()
    (model / "releases" / "10").rename(model / "current")


def _pipe(model: Path) -> None:
    (model / "current").unlink()
    os.mkfifo(model / "current")


@pytest.mark.parametrize(
    "change",
    [
        _elsewhere, _folder, _pipe, lambda model: _aside(model / "releases"),
        lambda model: _aside(model / "releases" / "10"), lambda model: _leads_to(model, "../other/releases/10"),
        lambda model: _leads_to(model, "releases/../10"), lambda model: _leads_to(model, "releases/010"),
        lambda model: _leads_to(model, "releases/10\n"), lambda model: _leads_to(model, "10"),
        lambda model: _leads_to(model, f"releases/{'1' * 19}"), lambda model: _leads_to(model, "current"),
    ],
)  # fmt: skip
def test_a_live_link_that_leads_out_of_the_releases_is_not_whole(
    phone: Pocket, releases: PhoneReleases, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    put(releases, 10, tmp_path)
    change(root(phone, releases) / "net")
    with pytest.raises(CheckFailedError, match=r"net/current is no link to one of its releases .*Remove it there"):
        releases.state("net")


def test_what_is_no_file_of_its_own_is_no_part_of_a_release(
    phone: Pocket, releases: PhoneReleases, tmp_path: Path
) -> None:
    """A link can lead to something else tomorrow; a pipe would be waited for for ever."""
    hashes = put(releases, 10, tmp_path)
    model = root(phone, releases) / "net"
    path = model / "releases" / "10" / "model.tflite"
    path.rename(model / "aside")
    path.symlink_to("../../aside")
    with pytest.raises(CheckFailedError, match=r"model\.tflite is not what was sent: .* received none"):
        releases.verify(releases.folder("net", 10), hashes)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckFailedError, match=r"model\.tflite is not what was sent: .* received none"):
        releases.verify(releases.folder("net", 10), hashes)
    (model / "history.jsonl").unlink()
    os.mkfifo(model / "history.jsonl")
    with pytest.raises(DeviceError, match="its shell refused"):
        releases.state("net")


def test_a_release_that_is_gone_is_still_the_live_one(phone: Pocket, releases: PhoneReleases, tmp_path: Path) -> None:
    """So that a rollback finds the way: what is missing is said by whoever verifies it."""
    put(releases, 10, tmp_path)
    put(releases, 20, tmp_path)
    releases.remove("net", 20)
    state = releases.state("net")
    assert (state.live, state.previous) == (20, 10)


def test_models_that_cannot_be_entered_are_not_none(phone: Pocket, releases: PhoneReleases, tmp_path: Path) -> None:
    models = root(phone, releases)
    assert (releases.names(), releases.state("net").live) == ([], None), "there is nothing yet"
    put(releases, 10, tmp_path)
    (models / "net").rename(models / "aside")
    (models / "net").touch()
    with pytest.raises(DeviceError, match="its shell refused"):
        releases.state("net")
    models.rename(models.parent / "aside")
    models.symlink_to("nowhere")
    with pytest.raises(DeviceError, match="its shell refused"):
        releases.names()


def test_a_history_that_cannot_be_read_is_not_none(phone: Pocket, releases: PhoneReleases, tmp_path: Path) -> None:
    """An older release would be no replay."""
    put(releases, 10, tmp_path)
    history = root(phone, releases) / "net" / "history.jsonl"
    history.unlink()
    assert releases.state("net").events == ()
    history.symlink_to("nowhere")
    with pytest.raises(DeviceError, match="its shell refused"):
        releases.state("net")
