"""Bundles over bad links, to a server that is a host of its own: slow, lossy, and unplugged without a word."""

# ruff: noqa: F811 - fixtures that are imported
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgenas.files as files
from benchmarks.real.cable import Cable
from edgenas.deploy import Bundle, deployed, ship
from edgenas.device import Device
from edgenas.device.ssh import SshConnection
from edgenas.errors import UnreachableError
from edgenas.latency.profiling import measuring
from tests.board import Board, Proxy
from tests.deploy.conftest import big_bundle, board, bundle, on_board, rewritten  # noqa: F401 - fixtures

SILENCE_S, LEASE_S = 4, 8  # instead of 12 and 30
Figures = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def whatever_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the model takes plays no part here, nor does what else is at work on the machine."""
    monkeypatch.setattr(measuring, "MOST_AWAY", 1.0)
    monkeypatch.setattr(measuring, "MOST_MOVED", 100.0)


@pytest.fixture
def cable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cable]:
    monkeypatch.setattr("edgenas.device.ssh._PING_S", 1)
    monkeypatch.setattr("edgenas.device.ssh._SILENCE_S", SILENCE_S)
    monkeypatch.setattr("edgenas.device.session._LEASE_S", LEASE_S)
    with Cable() as cable:
        yield cable


@pytest.fixture
def device(cable: Cable, tmp_path: Path) -> Iterator[Device]:
    with Board(tmp_path / "board", cable=cable) as board:
        yield on_board(board, tmp_path / "work")


def whole(device: Device, bundle: Bundle) -> bool:
    """Whether the model that an application finds is this bundle's."""
    current = Path(device.folder) / "models" / "digits" / "current"
    return files.sha256(current / "model.tflite") == bundle.manifest.files["model.tflite"]


def test_a_slow_and_lossy_link(
    cable: Cable, device: Device, bundle: Bundle, big_bundle: Bundle, figures: Figures
) -> None:
    ship(bundle, device, "digits")
    cable.slow_down(3000)
    cable.lose(3)
    told: list[tuple[int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "sending model.tflite":
            told.append((done, total))

    began = time.monotonic()
    assert ship(big_bundle, device, "digits", progress=progress).active == big_bundle.manifest.release
    figures("seconds to ship 1.2 MB at 3 Mbit/s, 3% of the packets lost", round(time.monotonic() - began, 1))
    assert whole(device, big_bundle)
    assert len(told) > 3 and told == sorted(told), "it shows how far it is"


def test_unplugged_in_mid_upload_the_rest_is_sent_later(
    cable: Cable, device: Device, bundle: Bundle, big_bundle: Bundle, figures: Figures
) -> None:
    ship(bundle, device, "digits")
    cable.slow_down(2000)
    size = big_bundle.model_path.stat().st_size
    begun = cable.sent

    def unplug() -> None:
        while cable.sent - begun < size * 0.7:
            time.sleep(0.02)
        cable.unplug()

    puller = threading.Thread(target=unplug)
    puller.start()
    with pytest.raises(UnreachableError, match=rf"nothing heard for {SILENCE_S} s.*The old model is still live") as cut:
        ship(big_bundle, device, "digits")
    puller.join()
    assert "\n" not in str(cut.value)
    assert whole(device, bundle)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        deployed(device)
    cable.plug_in()
    begun = cable.sent
    assert ship(big_bundle, device, "digits").active == big_bundle.manifest.release
    figures("share of the model that was sent after a cut at 70%", round((cable.sent - begun) / size, 2))
    assert cable.sent - begun < size * 0.6, "what had come was not sent again"
    assert whole(device, big_bundle)


@pytest.mark.parametrize("step", ["checking on the device", "measuring on the device"])
def test_unplugged_while_the_device_works(
    cable: Cable, device: Device, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path, step: str
) -> None:
    ship(bundle, device, "digits")
    newer = rewritten(bundle, tmp_path)
    with pytest.raises(UnreachableError, match="The old model is still live"):
        ship(newer, device, "digits", progress=unplug_at(step, cable))
    releases = Path(device.folder) / "models" / "digits" / "releases"
    assert [found.name for found in releases.iterdir()] == [str(bundle.manifest.release)]
    cable.plug_in()
    assert ship(newer, device, "digits").active == newer.manifest.release


def test_a_host_that_never_comes_back_does_not_keep_the_device(
    cable: Cable, device: Device, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path
) -> None:
    """The agent there is never told that its host has gone; it lets go of the device by itself."""
    newer = rewritten(bundle, tmp_path)
    with pytest.raises(UnreachableError, match="Nothing was put live"):
        ship(bundle, device, "digits", progress=unplug_at("sending model.tflite", cable))
    cable.plug_in_elsewhere()
    assert ship(newer, device, "digits").active == newer.manifest.release


def test_what_came_over_a_slow_link_stays(
    board: Board, bundle: Bundle, big_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    work, size = tmp_path / "work", big_bundle.model_path.stat().st_size
    one = bundle.manifest.release
    ship(bundle, on_board(board, work), "digits")  # its agent is there already
    put = SshConnection.put

    def in_a_hurry(self: SshConnection, local: Path, remote: str, timeout_s: float = 600, **more: Any) -> None:
        put(self, local, remote, 2, **more)

    with Proxy(board.port) as proxy, monkeypatch.context() as patched:
        patched.setattr(SshConnection, "put", in_a_hurry)
        proxy.pause_s = 0.08
        words = rf"\({size} bytes\) did not arrive within 2 s: the link is too slow.*still live: release {one}"
        with pytest.raises(UnreachableError, match=words) as caught:
            ship(big_bundle, on_board(board, work, proxy.port), "digits")
    assert "\n" not in str(caught.value)
    with Proxy(board.port) as proxy:
        shipped = ship(big_bundle, on_board(board, work, proxy.port), "digits")
        figures("share of the model that was sent after 2 s were over", round(proxy.sent / size, 2))
        assert proxy.sent < size, "what had come was not sent again"
    assert (shipped.active, shipped.previous) == (big_bundle.manifest.release, one)


def unplug_at(step: str, cable: Cable) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, total: int) -> None:
        if what == step:
            cable.unplug()

    return progress
