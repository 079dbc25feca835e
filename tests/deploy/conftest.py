"""A small trained bundle, a big untrained one, a table, and devices; made once a session."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.deploy import Bundle, FinalTraining, Samples, train_bundle
from edgenas.deploy.keys import SigningKey, create_key
from edgenas.deploy.manifest import Network
from edgenas.device import Device, Runtime, connect, open_agent
from edgenas.evaluation.data import Dataset, load_dataset, split
from edgenas.evaluation.recipe import Recipe
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.certificate import Certificate
from edgenas.latency.table.certificate import Network as Certified
from edgenas.ledger import Ledger
from edgenas.model import build_model, convert, converter_version, run_tflite
from tests.board import Board

SMALL = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 head_c16_relu6 dense_n10")
BIG = Architecture.parse("input_8x8x1 conv_k3_s2_c64_relu6 head_c4096_relu6 dense_n10")
RECIPE = Recipe(batch_size=64, learning_rate=0.02)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset("digits", (8, 8, 1), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def final(digits: Dataset) -> Callable[..., FinalTraining]:
    """A final training below a folder, with changes."""

    def make(root: Path, **changes: Any) -> FinalTraining:
        request = FinalTraining(
            architecture=SMALL,
            precision="int8",
            dataset=digits,
            splits=split(digits, 0),
            recipe=RECIPE,
            epochs=6,
            seed=3,
            study="night",
            candidate=SMALL.id,
            folder=root / "bundles" / "b1",
            checkpoint=root / "checkpoint",
        )
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `bundle` was trained in, with its ledger."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="session")
def bundle(study: Path, final: Callable[..., FinalTraining]) -> Bundle:
    """SMALL, trained, int8."""
    return train_bundle(final(study), ledger=Ledger(study / "ledger.jsonl"))


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
    """BIG, untrained, float32: 1.2 MB."""
    content = convert(build_model(BIG), "float32")
    assert bundle.samples is not None
    images = bundle.samples.images
    samples = Samples(images, bundle.samples.labels, run_tflite(content, images))
    network = Network(str(BIG), BIG.id, BIG.classes)
    release = bundle.manifest.release + 1_000_000
    manifest = dataclasses.replace(bundle.manifest, architecture=network, precision="float32", release=release)
    return Bundle.write(tmp_path_factory.mktemp("big") / "b1", manifest, content, bundle.labels, samples)


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with Board(tmp_path_factory.mktemp("board")) as board:
        yield board


def on_board(board: Board, folder: Path, port: int | None = None) -> Device:
    """A device of `board` with this Python, and a work folder of its own."""
    return board.device(folder=str(folder), runtime=Runtime(python=sys.executable), port=port)


def hooked_python(folder: Path, code: str, **environment: object) -> Runtime:
    """This Python with `code` run before anything else, for agents: `sys.addaudithook` sees all that they open."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    variables = " ".join(f'{name}="{value}"' for name, value in environment.items())
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\n{variables} PYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    return Runtime(python=str(wrapper))


@pytest.fixture
def local(tmp_path: Path) -> Device:
    return Device("here", "local:", folder=str(tmp_path / "work"))


@pytest.fixture(params=["local", "ssh"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    if request.param == "local":
        return Device("here", "local:", folder=str(tmp_path / "work"))
    return on_board(request.getfixturevalue("board"), tmp_path / "work")


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
    """A table of a device that says SMALL takes `predicted_us`, give or take 40%."""

    def make(device: Device, predicted_us: float, /, **identity: Any) -> LatencyTable:
        with connect(device) as connection, open_agent(connection) as agent:
            info, version = agent.info, agent.runtime_version(device.runtime.package)
        fields = {
            "device": device.name, "fingerprint": info.fingerprint, "cpu": info.cpu,
            "cpu_cores": info.cores, "memory_mb": 1, "os": info.os, "kernel": info.kernel,
            "firmware": "", "governor": "",
            "runtime": device.runtime.package, "runtime_version": version, "delegate": "XNNPACK", "threads": 1,
            "cores": None, "precision": "int8", "converter": converter_version(),
        }  # fmt: skip
        perfect = tuple(Certified(str(SMALL), 1.0, 1.0, 1.0) for _ in range(10))
        wide = tuple(Certified(str(SMALL), 1.0, 1.0, 1 - float(error)) for error in np.linspace(0.1, 0.4, 10))
        return LatencyTable(
            identity=Identity(**{**fields, **identity}),
            source="measured",
            reference=(str(SMALL), 10.0),
            empty_us=0.1,
            entries={layer: Entry(predicted_us / len(SMALL.layers()), 0.01, 1.0) for layer in SMALL.layers()},
            certificate=Certificate(perfect, wide),
        )

    return make
