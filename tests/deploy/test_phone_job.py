"""The job on a phone in one run, through the command line and the real adb client, with the table that `profile` made;
another phone is attached."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.architecture import Architecture
from edgenas.deploy import Bundle
from edgenas.deploy.manifest import Network
from edgenas.latency.profiling import planning, rounds
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.table import LatencyTable
from edgenas.space import MobileSpace
from tests import made
from tests.adb.lab import LabPhone
from tests.deploy.pocket import QUICK_TOOL
from tests.terminal import Terminal

SPACE = MobileSpace("tiny", (8, 8, 1), 10)


def small_plan() -> Plan:
    """A handful of layers, and a few networks of them."""
    least = {name: options[0] for name, options in SPACE.choices.items()}
    networks = [
        SPACE.decode(
            least | {"stage1_block1_kernel": first, "stage2_block1_kernel": second, "stage3_block1_kernel": third}
        )
        for first, second, third in itertools.product((3, 5), (3, 5), (3, 5))
    ]
    layers = dict.fromkeys(layer for network in networks for layer in network.layers())
    return Plan(tuple(layers), tuple(networks[:4]), tuple(networks[4:6]), tuple(networks[6:]), networks[0])


def bundle_of(bundle: Bundle, network: Architecture, folder: Path, release: int) -> Bundle:
    """A bundle that says it is the network (its file is SMALL's: a phone looks at no outputs, and the host is told to
    look away)."""
    manifest = dataclasses.replace(
        bundle.manifest, architecture=Network(str(network), network.id, network.classes), precision="float32",
        release=release, table=None, limits={},
    )  # fmt: skip
    return Bundle.write(folder, manifest, made.FLOAT32.read_bytes(), bundle.labels, None)


def test_from_two_phones_on_the_desk_to_a_model_and_back(
    make_phone: Callable[..., LabPhone], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, plan = Terminal(tmp_path), small_plan()
    gets = user.gets
    monkeypatch.setattr(planning, "plan_profile", lambda *_, **__: plan)
    monkeypatch.setattr(rounds, "LEAST_PASSES", 2)
    monkeypatch.setattr("edgenas.deploy.bundle.refuse_mislabelled", lambda *_: None)
    phones = {name: make_phone(android=True) for name in ("phone", "other")}
    for name, one in phones.items():
        one.tool.write_text(QUICK_TOOL)
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
    assert gets("ship", str(second.folder), "phone", *held)["active"] == number + 2
    found = gets("verify", "phone", "digits", "--bundle", str(second.folder))
    assert found["release"] == number + 2
    assert found["latency_ms"]["median"] == shipped["latency_ms"]["median"] == made.FLOAT32.stat().st_size // 100 / 1000
    assert gets("rollback", "phone", "digits")["active"] == number + 1
    assert [model["release"] for model in gets("deployed", "other")["models"]] == [number + 1]
