"""Uploads that do not go as they should: what has come is not lost, and what came wrong is sent again."""

import os
from pathlib import Path
from typing import Any

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, ship
from edgenas.deploy.shipment import upload_s
from edgenas.device import Device
from edgenas.device.connection import LocalConnection
from edgenas.errors import DeviceError, UnreachableError
from tests.board import Board
from tests.deploy.conftest import on_board
from tests.deploy.inside import Inside


def test_a_beginning_that_the_disk_lost_is_sent_again_by_the_same_command(
    board: Board, inside: Inside, big_bundle: Bundle, tmp_path: Path
) -> None:
    """Over SSH, where an upload goes on."""
    device, sha = on_board(board, tmp_path / "work"), big_bundle.manifest.files["model.tflite"]
    part = tmp_path / "work" / "blobs" / f"{sha}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(os.urandom(300_000))
    assert ship(big_bundle, device, "digits").active == big_bundle.manifest.release
    current = tmp_path / "work" / "models" / "digits" / "current"
    assert files.sha256(current / "model.tflite") == sha
    assert len(inside.params_of("stage")) == 2, "what went on from a wrong beginning is noticed"


@pytest.mark.parametrize(("error", "stays"), [(UnreachableError, True), (DeviceError, False)])
def test_what_came_stays_where_the_link_broke_and_goes_where_the_device_failed(
    local: Device, inside: Inside, bundle: Bundle, big_bundle: Bundle, monkeypatch: pytest.MonkeyPatch,
    error: type[DeviceError], stays: bool,
) -> None:  # fmt: skip
    ship(bundle, local, "digits")
    part = Path(local.folder) / "blobs" / f"{big_bundle.manifest.files['model.tflite']}.part"

    def put(self: LocalConnection, local: Path, remote: str, timeout_s: float = 600, **_: Any) -> None:
        if local.name == "model.tflite":
            assert timeout_s == upload_s(local.stat().st_size) == 600 + local.stat().st_size / 5000
            part.write_bytes(b"half")
            raise error("here: half of it came.")
        real(self, local, remote, timeout_s)

    real = LocalConnection.put
    monkeypatch.setattr(LocalConnection, "put", put)
    words = f"half of it came. The old model is still live: release {bundle.manifest.release}"
    with pytest.raises(error, match=words):
        ship(big_bundle, local, "digits")
    assert part.exists() is stays
