"""The small bundle, tables for it, and devices; nothing is trained or converted here."""

import dataclasses
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.deploy import Bundle, releases, shipping
from edgenas.deploy import keys as signing
from edgenas.deploy import phones as phones_of_deploy
from edgenas.deploy.keys import SigningKey, create_key
from edgenas.device import Device, Phone, Runtime, connect
from edgenas.device import phone as phone_of_device
from edgenas.device.agent import signatures
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.calibration import Calibration
from edgenas.latency.table.certificate import Certificate
from edgenas.latency.table.certificate import Network as Certified
from edgenas.model import converter_version, workers
from tests import made
from tests.board import Board
from tests.deploy.inside import Inside
from tests.deploy.pocket import Pocket, benchmark, connecting
from tests.made import SMALL

__all__ = ["SMALL", "hooked_python", "on_board"]


class MadeBefore:
    """In the place of a pool of processes that convert: every network's file is SMALL's."""

    def __init__(self, **_: Any) -> None:
        pass

    def submit(self, work: object, path: Path, subject: object, precision: str) -> Future[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made.INT8 if precision == "int8" else made.FLOAT32, path)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def shutdown(self, **_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def nothing_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured beside a model is there already, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", MadeBefore)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """SMALL, trained, int8."""
    return Bundle.load(Path(shutil.copytree(made.BUNDLE, tmp_path_factory.mktemp("made") / "b1")))


@pytest.fixture(scope="session")
def rewritten() -> Callable[..., Bundle]:
    """The same files as a newer bundle, its manifest changed; signed by `key`."""
    numbers = itertools.count(1)

    def rewrite(bundle: Bundle, folder: Path, key: SigningKey | None = None, **changes: Any) -> Bundle:
        number = next(numbers)
        manifest = dataclasses.replace(bundle.manifest, **{"release": bundle.manifest.release + number, **changes})
        content, at = bundle.model_path.read_bytes(), folder / f"again-{number}"
        return Bundle.write(at, manifest, content, bundle.labels, bundle.samples, key)

    return rewrite


@pytest.fixture(scope="session")
def big_bundle(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Bundle:
    """The same network, 1.2 MB (bytes between a flatbuffer and the zip behind it mean nothing)."""
    flatbuffer, separator, zipped = bundle.model_path.read_bytes().rpartition(b"PK\x03\x04")
    content = flatbuffer + bytes(1_200_000) + separator + zipped
    manifest = dataclasses.replace(bundle.manifest, release=bundle.manifest.release + 1_000_000)
    return Bundle.write(tmp_path_factory.mktemp("big") / "b1", manifest, content, bundle.labels, bundle.samples)


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with Board(tmp_path_factory.mktemp("board")) as board:
        yield board


def on_board(board: Board, folder: Path, port: int | None = None) -> Device:
    """A device of `board` with this Python, and a work folder of its own."""
    return board.device(folder=str(folder), runtime=Runtime(python=sys.executable), port=port)


def hooked_python(folder: Path, code: str, **environment: object) -> Runtime:
    """This Python with `code` run before anything else but the tests' own beginning, for agents."""
    folder.mkdir(exist_ok=True)
    begins = ""
    if "EDGENAS_TESTS_LOOPBACK_ONLY" in os.environ:  # a test: agents are on a virtual machine
        own = Path(__file__).parents[1] / "virtual" / "sitecustomize.py"
        begins = f"__file__ = {str(own)!r}\nexec(compile(open(__file__).read(), __file__, 'exec'))\n"
    (folder / "sitecustomize.py").write_text(begins + code)
    variables = " ".join(f'{name}="{value}"' for name, value in environment.items())
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\n{variables} PYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    return Runtime(python=str(wrapper))


@pytest.fixture
def local(tmp_path: Path) -> Device:
    """This machine, with a real agent; with an agent in this process where the test takes `inside` too."""
    return Device("here", "local:", folder=str(tmp_path / "work"))


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Inside:
    """Agents answer in this process: see tests/deploy/inside.py."""
    inside = Inside()
    for module in (shipping, releases, signing):
        monkeypatch.setattr(module, "open_agent", inside.open)
    monkeypatch.setattr(signatures, "in_child", lambda stdin, work, *rest, **_: work(lambda **_: None, *rest))
    return inside


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SigningKey]:
    """New signing keys by name, in a configuration of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def make(name: str = "default") -> SigningKey:
        create_key(name)
        return SigningKey.load(name)

    return make


@pytest.fixture
def table_of() -> Callable[..., LatencyTable]:
    """A table of a device that says SMALL takes `predicted_us`, give or take 40%; its reference takes 10 us.

    `anchors_ms`: what networks of its calibration took.
    """

    def make(
        device: Device, predicted_us: float, /, anchors_ms: tuple[float, ...] = (), **identity: Any
    ) -> LatencyTable:
        with connect(device) as connection, shipping.open_agent(connection) as agent:
            info, version = agent.info, agent.runtime_version(device.runtime.package)
        fields = {
            "device": device.name, "fingerprint": info.fingerprint, "cpu": info.cpu,
            "cpu_cores": info.cores, "memory_mb": 1, "os": info.os, "kernel": info.kernel,
            "firmware": "", "governor": "",
            "runtime": device.runtime.package, "runtime_version": version, "delegate": "XNNPACK", "threads": 1,
            "cores": None, "precision": "int8", "converter": converter_version(),
        }  # fmt: skip
        return certified(Identity(**{**fields, **identity}), predicted_us, anchors_ms)

    return make


def certified(identity: Identity, predicted_us: float, anchors_ms: tuple[float, ...] = ()) -> LatencyTable:
    """A table that says SMALL takes `predicted_us`, give or take 40%; its reference takes 10 us."""
    perfect = tuple(Certified(str(SMALL), 1.0, 1.0, 1.0) for _ in range(10))
    wide = tuple(Certified(str(SMALL), 1.0, 1.0, 1 - float(error)) for error in np.linspace(0.1, 0.4, 10))
    return LatencyTable(
        identity=identity,
        source="measured",
        reference=(str(SMALL), 10.0),
        empty_us=0.1,
        entries={layer: Entry(predicted_us / len(SMALL.layers()), 0.01, 1.0) for layer in SMALL.layers()},
        calibration=Calibration(networks=tuple(Certified(str(SMALL), ms, ms, ms) for ms in anchors_ms)),
        certificate=Certificate(perfect, wide),
    )


@pytest.fixture
def make_pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pocket]:
    """Makes phones without adb: see tests/deploy/pocket.py."""
    phones: dict[str, Pocket] = {}
    for module in (phones_of_deploy, phone_of_device):
        monkeypatch.setattr(module, "connect", connecting(phones))
    monkeypatch.setattr(Phone, "benchmark", benchmark)

    def make(kind: str = "link") -> Pocket:
        phone = Pocket(tmp_path / f"phone-{len(phones)}", kind)
        phones[phone.serial] = phone
        return phone

    return make


@pytest.fixture
def pocket(make_pocket: Callable[..., Pocket]) -> Pocket:
    return make_pocket()
