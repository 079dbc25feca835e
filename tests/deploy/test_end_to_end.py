"""From a bundle to a live model and back, with real agents in processes of their own: here, and over SSH."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import edgenas.files as files
from edgenas.deploy import Bundle, deployed, rollback, ship, verify
from edgenas.device import Device
from edgenas.errors import DeviceError
from edgenas.latency.table import LatencyTable
from edgenas.model import class_scores
from tests.board import Board
from tests.deploy.conftest import on_board

Rewritten = Callable[..., Bundle]


@pytest.fixture(params=["local", "ssh"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    if request.param == "local":
        return Device("here", "local:", folder=str(tmp_path / "work"))
    return on_board(request.getfixturevalue("board"), tmp_path / "work")


def test_from_a_bundle_to_a_live_model_and_back(
    device: Device, bundle: Bundle, rewritten: Rewritten, table_of: Callable[..., LatencyTable], tmp_path: Path
) -> None:
    first, one = ship(bundle, device, "digits"), bundle.manifest.release
    assert (first.active, first.previous, first.dry_run) == (one, None, False)
    assert first.agreement_on_device == 1.0, "the same runtime on the same processor"
    assert first.largest_difference == 0
    assert (first.promise, first.promise_kept) == ("unbacked", None)
    released = Path(device.folder) / "models" / "digits" / "current"
    assert sorted(path.name for path in released.iterdir()) == ["labels.txt", "manifest.json", "model.tflite"]
    assert files.sha256(released / "model.tflite") == bundle.manifest.files["model.tflite"]

    again = rewritten(bundle, tmp_path)
    two = again.manifest.release
    table = table_of(device, 1e6, anchors_ms=(0.0104, 0.0104))  # the device is in a state that is 4% faster
    second = ship(again, device, "digits", table=table)
    assert (second.active, second.previous) == (two, one)
    assert (second.promise, second.promise_kept) == ("kept", True)
    assert second.normalised_ms == pytest.approx(0.0104, rel=0.005), "the reference is the same network: 10 us"
    assert second.latency_ms["median"] == pytest.approx(first.latency_ms["median"], rel=0.01), "by the clock"
    assert second.predicted_ms == pytest.approx(1000)

    back = rollback(device, "digits")
    assert (back.active, back.previous) == (one, two)
    assert rollback(device, "digits", to=two).active == two
    checked = verify(device, "digits", bundle=again)
    assert (checked.release, checked.agreement_on_device, checked.signed_by) == (two, 1.0, None)
    assert checked.latency_ms is not None
    assert checked.latency_ms["median"] == pytest.approx(second.latency_ms["median"], rel=0.01)
    assert checked.latency_ms_when_shipped == second.latency_ms


def test_a_host_key_that_changed_or_is_not_known(board: Board, bundle: Bundle, tmp_path: Path) -> None:
    device = on_board(board, tmp_path / "work")
    changed = Path(f"{board.make_key('other')}.pub").read_text().rpartition(" ")[0]
    for host_key, words in ((changed, "its host key has CHANGED"), (None, "its host key is not known yet")):
        with pytest.raises(DeviceError, match=words) as caught:
            ship(bundle, dataclasses.replace(device, host_key=host_key), "digits")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_the_second_host_is_refused_while_the_first_ships(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    second, refused = rewritten(bundle, tmp_path), list[str]()

    def meanwhile(what: str, done: int, total: int) -> None:
        if what == "measuring on the device" and not refused:
            with pytest.raises(DeviceError, match=r"the device is being measured by .* since") as caught:
                ship(second, local, "digits")
            refused.append(str(caught.value))

    shipped = ship(bundle, local, "digits", progress=meanwhile)
    assert refused and "\n" not in refused[0]
    assert (shipped.active, shipped.previous) == (bundle.manifest.release, None)
    assert [found.release for found in deployed(local)] == [bundle.manifest.release]
    names = {path.name for path in Path(local.folder, "models", "digits").iterdir()} - {".lock"}
    assert names == {"releases", "current", "history.jsonl"}
    assert not list(Path(local.folder, "blobs").glob("*.part"))


def test_an_application_classifies_with_the_live_model(local: Device, inside: object, bundle: Bundle) -> None:
    """The example of the documentation, as a program of its own."""
    ship(bundle, local, "digits")
    assert bundle.samples is not None
    names = [f"{number}.png" for number in range(20)]
    for name, image in zip(names, bundle.samples.images, strict=False):
        Image.fromarray(image[:, :, 0]).save(name)
    program = Path(__file__).parents[2] / "examples" / "classify.py"
    argv = [sys.executable, str(program), str(Path(local.folder, "models", "digits")), *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    scores = class_scores(bundle.model_path.read_bytes(), bundle.samples.images[:20])
    expected = [f"{bundle.labels[row.argmax()]} {row.max():.1%}" for row in scores]
    assert done.stdout.splitlines() == [f"{name}: {said}" for name, said in zip(names, expected, strict=True)]
