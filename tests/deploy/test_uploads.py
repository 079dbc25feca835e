"""Uploads that do not go as they should: what has come is not lost, and what came wrong is sent again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, ship
from edgenas.device.ssh import SshConnection
from edgenas.errors import CheckFailedError, UnreachableError
from tests.board import Board, Proxy
from tests.deploy.conftest import on_board


def test_a_beginning_that_the_disk_lost_is_sent_again_by_the_same_command(
    board: Board, big_bundle: Bundle, tmp_path: Path
) -> None:
    device, sha = on_board(board, tmp_path / "work"), big_bundle.manifest.files["model.tflite"]
    part = tmp_path / "work" / "blobs" / f"{sha}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(os.urandom(300_000))
    assert ship(big_bundle, device, "digits").active == big_bundle.manifest.release
    current = tmp_path / "work" / "models" / "digits" / "current"
    assert files.sha256(current / "model.tflite") == sha


def test_what_is_wrong_here_is_sent_once(
    board: Board, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path
) -> None:
    torn = rewritten(bundle, tmp_path)
    torn.model_path.write_bytes(torn.model_path.read_bytes() + b"x")
    said: list[str] = []
    with pytest.raises(CheckFailedError, match=r"model\.tflite: expected sha256"):
        ship(torn, on_board(board, tmp_path / "work"), "digits", progress=lambda what, done, of: said.append(what))
    assert said.count("checking on the device") == 1
    assert len([what for what in said if what == "sending labels.txt"]) <= 2, "begun and done"


def test_what_came_over_a_slow_link_stays(
    board: Board, bundle: Bundle, big_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        assert proxy.sent < size, "what had come was not sent again"
    assert (shipped.active, shipped.previous) == (big_bundle.manifest.release, one)
