"""Whatever a device gives for outputs, and says meanwhile, is an answer or an error of the device's."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgenas.deploy import Samples
from edgenas.deploy.agreement import Agreement, run_samples
from edgenas.device import Agent, Device, connect
from edgenas.errors import CheckFailedError, DeviceError

SAMPLES = Samples(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4), np.eye(4, 10, dtype=np.float32))


class Liar:
    """An agent that gives this file for outputs."""

    def __init__(self, device: Device, content: bytes, row: Any) -> None:
        self.device, self._content, self._row = device, content, row

    def call(self, op: str, outputs: str, on_progress: Callable[[dict[str, Any]], None], **_: Any) -> None:
        on_progress({"row": self._row, "rows": 4})
        Path(outputs).write_bytes(self._content)


def ask(device: Device, content: bytes, row: Any = 1) -> tuple[Agreement, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    with connect(device) as connection:
        agent = cast(Agent, Liar(device, content, row))
        found = run_samples(
            connection, agent, "m.tflite", SAMPLES, device.folder, 1, lambda what, done, of: told.append((done, of))
        )
    assert not list(Path(device.folder).iterdir()), "samples may be private"
    return found, told


def _npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def _npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, outputs=SAMPLES.outputs)
    return content.getvalue()


def _claiming(shape: str) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"no array", "cannot be read"),
        (_npz(), "cannot be read"),
        (_claiming("(10000000000000,)"), "cannot be read"),
        (_claiming("(4, 10)"), "cannot be read"),
        (_claiming("(4, 10"), "cannot be read"),
        (_npy(SAMPLES.outputs) + bytes(10_000), "at most .* bytes, received more"),
    ],
    ids=["empty", "text", "npz", "huge", "short", "torn", "long"],
)
def test_a_file_that_is_no_outputs(local: Device, content: bytes, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        ask(local, content)


@pytest.mark.parametrize("array", [np.full((4, 10), np.nan, np.float32), np.zeros((4, 9)), np.array(["x"])])
def test_outputs_of_another_kind(local: Device, array: Any) -> None:
    with pytest.raises(CheckFailedError, match=re.escape("expected finite outputs float32 [4, 10]")):
        ask(local, _npy(array))


@pytest.mark.parametrize("row", ["x", None, 1.5, float("inf"), [1]])
def test_progress_that_is_no_number_is_none(local: Device, row: Any) -> None:
    found, told = ask(local, _npy(SAMPLES.outputs), row)
    assert (found.share, told) == (1.0, [(0, 4)])
