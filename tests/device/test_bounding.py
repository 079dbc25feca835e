"""What a foreign model may take of the device: memory, and threads."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgenas.device import Agent, Connection, open_agent
from edgenas.device.agent import bounding, rounds
from edgenas.errors import CheckFailedError, InputError
from edgenas.model.flatbuffer import Table
from tests.made import FLOAT32, INT8

_SCRIPT = """
import json, os, resource, signal, sys
from edgenas.device.agent import bounding
from edgenas.device.agent.children import Died, in_child

def takes(report, mb):
    return len(bytearray(mb << 20)) >> 20

def aborts(report, mb):  # as a C++ program does
    try:
        bytearray(mb << 20)
    except MemoryError:
        os.kill(os.getpid(), signal.SIGABRT)

def says(report, mb):
    return [int(open("/proc/self/oom_score_adj").read()), bounding.left_kb(), bounding.bound_told()]

work, mb, most_kb = {"takes": takes, "aborts": aborts, "says": says}[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
try:
    came = ["result", in_child(None, work, mb, most_kb=most_kb)]
except Died as death:
    came = ["died", death.reason, death.out_of_memory]
own = resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
print(json.dumps([came, own]))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux holds a process to a size")


def child(work: str, mb: int, most_kb: int) -> Any:
    """What comes of a child, in a process of its own: pytest's has threads, and is not forked."""
    argv = [sys.executable, "-c", _SCRIPT, work, str(mb), str(most_kb)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    came, own_is_free = json.loads(done.stdout)
    assert own_is_free, "the agent itself is not bound"
    return came


def test_a_child_takes_no_more_than_its_part():
    told = " (it may take 64 MB of memory, a quarter of the device's)"
    assert child("takes", 15 << 10, 64 << 10) == ["died", f"refused more memory{told}", True]
    assert child("takes", 70, 64 << 10) == ["died", f"refused more memory{told}", True]
    assert child("takes", 50, 64 << 10) == ["result", 50]
    assert child("aborts", 15 << 10, 64 << 10) == ["died", f"killed by SIGABRT{told}", False]


def test_a_child_of_our_own_is_not_held_to_a_part_and_dies_first_too():
    assert child("takes", 70, 0) == ["result", 70]
    assert child("says", 0, 0) == ["result", [1000, None, ""]]
    _, (adjusted, left_kb, told) = child("says", 0, 64 << 10)
    assert (adjusted, told) == (1000, " (it may take 64 MB of memory, a quarter of the device's)")
    assert 60 << 10 < left_kb <= 64 << 10


def test_a_quarter_of_the_device_is_a_child_s_part():
    assert bounding.share_kb(1 << 20) == 256 << 10
    assert bounding.share_kb(0) == 0, "nobody knows"


def with_rows(path: Path, rows: int) -> bytes:
    """The model of 8x8 images, its input of so many rows."""
    content = bytearray(path.read_bytes())
    shape = 0
    for tensor in Table.root(bytes(content), b"TFL3").tables(2)[0].tables(0):
        if tensor.numbers(shape, "i")[1:3] == (8, 8):
            start, _ = tensor._vector(shape, 4)
            struct.pack_into("<i", content, start + 4, rows)
    return bytes(content)


@pytest.mark.parametrize("path", [FLOAT32, INT8], ids=["float32", "int8"])
def test_a_changed_dimension_does_not_take_the_device(local: Connection, tmp_path: Path, path: Path):
    """It would take 50 GB and more."""
    (tmp_path / "large.tflite").write_bytes(with_rows(path, 1 << 26))
    with open_agent(local) as agent:
        part = f"it may take {agent.info.memory_total_kb // 4 / 1024:.0f} MB of memory, a quarter of the device's"
        with pytest.raises(CheckFailedError, match=part):
            agent.call("single", model=str(tmp_path / "large.tflite"), runs=1)
        assert agent.call("single", model=str(path), runs=1)["inputs"][0]["shape"] == [1, 8, 8, 1]


@pytest.mark.parametrize("threads", [1500, 0, -1, True, "2", None, 1.0])
@pytest.mark.parametrize("op", ["single", "infer", "measure"])
def test_no_more_threads_than_cores(here: Agent, op: str, threads: Any):
    params = {"single": {"model": "m", "runs": 1}, "infer": {"model": "m", "inputs": "i", "outputs": "o"},
              "measure": {"models": [], "reference": "r", "visits": 1}}[op]  # fmt: skip
    with pytest.raises(InputError, match=f"expected 1 to {os.cpu_count()} threads, as many as it has cores, not"):
        here.call(op, threads=threads, **params)


@pytest.mark.parametrize(
    ("free_kb", "left_kb", "full"),
    [(1 << 20, None, False), (1000, None, True), (0, None, False), (1 << 20, 140 << 10, False),
     (1 << 20, 120 << 10, True)],
)  # fmt: skip
def test_a_batch_is_full_where_little_of_its_part_is_left(
    monkeypatch: pytest.MonkeyPatch, free_kb: int, left_kb: int | None, full: bool
):
    monkeypatch.setattr(rounds, "memory_kb", lambda: (1 << 20, free_kb))
    monkeypatch.setattr(bounding, "left_kb", lambda: left_kb)
    assert rounds._is_full() is full
