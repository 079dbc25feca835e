"""The job on a phone in one run, through the command line and the real adb client, with the table that `profile` made;
another phone is attached, and a cable comes out in mid-push."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgenas.architecture import Architecture
from edgenas.cli.main import cli
from edgenas.deploy import Bundle, Samples
from edgenas.deploy.manifest import Network
from edgenas.errors import UnreachableError
from edgenas.latency.profiling import planning
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.table import LatencyTable
from edgenas.model import build_model, convert, run_tflite
from edgenas.space import MobileSpace
from tests.adb.lab import LabPhone, quicken

SPACE = MobileSpace("tiny", (8, 8, 1), 10)


def small_plan() -> Plan:
    """A handful of layers, and a few networks of them."""
    least = {name: options[0] for name, options in SPACE.choices.items()}
    networks = [
        SPACE.decode(least | {f"stage{stage}_block1_kernel": kernel for stage, kernel in enumerate(kernels, 1)} | more)
        for more in ({}, {"stage1_block1_expansion": 3})
        for kernels in itertools.product((3, 5), repeat=3)
    ]
    layers = dict.fromkeys(layer for network in networks for layer in network.layers())
    return Plan(tuple(layers), tuple(networks[:6]), tuple(networks[6:10]), tuple(networks[10:13]), networks[0])


def bundle_of(bundle: Bundle, network: Architecture, folder: Path, release: int) -> Bundle:
    """The network as a bundle, untrained."""
    content = convert(build_model(network), "float32")
    assert bundle.samples is not None
    images = bundle.samples.images
    manifest = dataclasses.replace(
        bundle.manifest, architecture=Network(str(network), network.id, network.classes), precision="float32",
        release=release, table=None, limits={},
    )  # fmt: skip
    samples = Samples(images, bundle.samples.labels, run_tflite(content, images))
    return Bundle.write(folder, manifest, content, bundle.labels, samples)


def gets(*words: str) -> dict[str, Any]:
    """What a command answers."""
    done = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.long
@pytest.mark.slow
def test_from_two_phones_on_the_desk_to_a_model_and_back(
    make_phone: Callable[..., LabPhone], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    quicken(monkeypatch, most_moved=2.0)
    plan = small_plan()
    monkeypatch.setattr(planning, "plan_profile", lambda *_, **__: plan)
    phones = {name: make_phone(android=True) for name in ("phone", "other")}
    for name, one in phones.items():
        gets("device", "add", name, f"adb:{one.serial}", "--benchmark-model", str(one.tool))
        gets("device", "setup", name)
        assert {finding["level"] for finding in gets("doctor", name)["findings"]} == {"ok"}

    profiled = gets("profile", "phone", "--space", "tiny", "--input", "8x8x1", "--precision", "float32")
    table = LatencyTable.load(profiled["table"])
    assert set(table.entries) == set(plan.layers)
    assert table.provenance["delegated"] == {"full": len(plan.layers)}

    network, number = plan.networks[-1], bundle.manifest.release
    first, second = (bundle_of(bundle, network, tmp_path / f"b{step}", number + step) for step in (1, 2))
    held = ("--as", "digits", "--table", profiled["table"])
    shipped = gets("ship", str(first.folder), "phone", *held)
    assert (shipped["active"], shipped["previous"]) == (number + 1, None)
    assert shipped["predicted_ms"] == pytest.approx(float(table.estimate_ms([network])[0]))
    gets("ship", str(first.folder), "other", "--as", "digits")

    phones["phone"].adbd.cut_after = 8_000
    with pytest.raises(UnreachableError, match=r"model\.tflite could not be written: .*The old model is still live"):
        gets("ship", str(second.folder), "phone", *held)
    assert [model["release"] for model in gets("deployed", "other")["models"]] == [number + 1]
    phones["phone"].plug_in()
    assert gets("ship", str(second.folder), "phone", *held)["active"] == number + 2
    found = gets("verify", "phone", "digits", "--bundle", str(second.folder))
    assert found["release"] == number + 2
    assert found["latency_ms"]["median"] > 0
    assert gets("rollback", "phone", "digits")["active"] == number + 1
    assert [model["release"] for model in gets("deployed", "other")["models"]] == [number + 1]
