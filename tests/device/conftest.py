"""Boards and small real models, made once a session."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgenas.device import Connection, Device, connect
from tests.board import Board

_MAKE_MODELS = """
import sys
import time
from pathlib import Path
import tensorflow as tf

for filters in (1, 4, 8):
    kernel = tf.random.Generator.from_seed(filters).normal((3, 3, 1, filters))

    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1))])
        def __call__(self, x):
            return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), [1, 2])

    net = Net()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([net.__call__.get_concrete_function()], net)
    Path(sys.argv[1], f"conv{filters}.tflite").write_bytes(converter.convert())
"""


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with Board(tmp_path_factory.mktemp("board")) as board:
        yield board


def reach(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    """This machine as a device of a kind, with a work folder of the test's own."""
    folder = str(tmp_path / "work")
    if kind == "local":
        return Device("here", "local:", folder=folder)
    lab = {"ssh": "board", "adb": "phone", "adb-android": "android_phone"}[kind]
    made: Device = request.getfixturevalue(lab).device(folder=folder)
    return made


@pytest.fixture(params=["local", "ssh"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    """The same device, reached in each way that an agent can be started in."""
    return reach(request.param, request, tmp_path)


@pytest.fixture
def connection(device: Device) -> Iterator[Connection]:
    with connect(device) as connection:
        yield connection


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Connection]:
    """A connection to this machine, whose Python has a runtime."""
    with connect(Device("here", "local:", folder=str(tmp_path / "work"))) as connection:
        yield connection


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with conv1.tflite, conv4.tflite and conv8.tflite: 8x8x1 in, 1, 4 or 8 numbers out."""
    folder = tmp_path_factory.mktemp("models")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    argv = [sys.executable, "-c", _MAKE_MODELS, str(folder)]
    subprocess.run(argv, check=True, env=environment, capture_output=True)
    return folder


def gone(pid: int, within_s: float) -> bool:
    """Whether a process of this machine ends in that time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
