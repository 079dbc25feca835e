"""From a chosen network to a bundle: what is trained on, what the gates refuse, what a break costs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgenas.deploy import Bundle, FinalTraining, ship, train_bundle, verify
from edgenas.device import Device
from edgenas.errors import CheckFailedError, InputError
from edgenas.evaluation.data import Dataset, split
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.mixed import Mix
from edgenas.ledger import Ledger
from edgenas.model import build_model, operator_kinds, run_tflite
from tests.deploy.conftest import SMALL

Final = Callable[..., FinalTraining]

_TRAIN = """
import sys
from pathlib import Path
from edgenas.architecture import Architecture
from edgenas.deploy import FinalTraining, train_bundle
from edgenas.evaluation.data import open_dataset, split
from edgenas.evaluation.recipe import Recipe
from edgenas.ledger import Ledger

folder, notation, dataset = Path(sys.argv[1]), sys.argv[2], open_dataset(Path(sys.argv[3]))
request = FinalTraining(
    architecture=Architecture.parse(notation), precision="float32", dataset=dataset, splits=split(dataset, 0),
    recipe=Recipe(batch_size=64, learning_rate=0.02), epochs=int(sys.argv[4]), seed=3, study="night", candidate="c",
    folder=folder / "b1", checkpoint=folder / "checkpoint",
)
train_bundle(request, ledger=Ledger(folder / "ledger.jsonl"))
"""


def test_the_bundle_says_what_its_files_do(bundle: Bundle, digits: Dataset, study: Path) -> None:
    manifest, samples = bundle.manifest, bundle.samples
    test = split(digits, 0).test.open(Ledger(study / "other.jsonl"), "check", "night", SMALL.id)
    content = bundle.model_path.read_bytes()
    found = run_tflite(content, digits.x[test]).argmax(axis=1)
    assert manifest.accuracy.test == pytest.approx((found == digits.y[test]).mean())
    assert manifest.accuracy.test > 0.5, "it learned something"
    low, high = manifest.accuracy.test_interval
    assert low < manifest.accuracy.test < high
    assert manifest.accuracy.recall["7"] == pytest.approx((found == 7)[digits.y[test] == 7].mean())
    assert bundle.architecture == SMALL
    assert bundle.labels == digits.labels
    assert samples is not None
    assert len(samples.images) == len(split(digits, 0).acceptance)
    np.testing.assert_array_equal(samples.outputs, run_tflite(content, samples.images))
    assert manifest.preprocessing.input_shape == (8, 8, 1)
    assert manifest.predicted.latency_ms is None
    assert manifest.predicted.peak_memory_kb == manifest.predicted.arena_kb + manifest.predicted.model_kb


def test_the_ledger_holds_epochs_the_opening_and_the_bundle(bundle: Bundle, study: Path) -> None:
    events = [entry["event"] for entry in Ledger(study / "ledger.jsonl").entries()]
    assert events == ["final_epoch"] * 6 + ["test_opened", "bundle_written"]
    assert not (study / "checkpoint").exists()
    written = Ledger(study / "ledger.jsonl").entries("bundle_written")[0]
    assert written["files"] == bundle.manifest.files
    assert bundle.manifest.accuracy.test_candidates == 1
    assert bundle.manifest.model_bytes == bundle.model_path.stat().st_size


def test_an_existing_bundle_is_not_overwritten(bundle: Bundle, final: Final, study: Path) -> None:
    before = bundle.model_path.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        train_bundle(final(study), ledger=Ledger(study / "ledger.jsonl"))
    assert bundle.model_path.read_bytes() == before


def test_a_table_is_named_with_its_prediction(
    final: Final, tmp_path: Path, local: object, table_of: Callable[..., LatencyTable]
) -> None:
    table = table_of(local, 80.0)
    request = final(tmp_path, table=table, table_name="here-tiny", epochs=2, precision="float32", samples=False)
    made = train_bundle(request, ledger=Ledger(tmp_path / "ledger.jsonl"))
    again = Bundle.load(made.folder)
    assert again.manifest == made.manifest
    assert again.manifest.table is not None
    assert (again.manifest.table.name, again.manifest.table.identity) == ("here-tiny", table.identity)
    assert again.manifest.predicted.latency_ms == pytest.approx(0.08)
    assert again.manifest.predicted.latency_interval_ms == pytest.approx((0.08 * 0.6, 0.08 / 0.6))
    assert again.samples is None
    assert sorted(path.name for path in made.folder.iterdir()) == ["labels.txt", "manifest.json", "model.tflite"]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_another_network_than_the_trained_one_is_refused(
    final: Final, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """What a broken converter gives: a file of other weights."""
    from edgenas.deploy import quantising

    convert = quantising.convert
    monkeypatch.setattr(quantising, "convert", lambda model, *rest: convert(build_model(SMALL), *rest))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(CheckFailedError, match="float_conversion: the float32 file names the class that Keras names"):
        train_bundle(final(tmp_path, precision=precision), ledger=ledger)
    assert not (tmp_path / "bundles").exists()
    assert ledger.entries("test_opened") == [], "the test split stays sealed"


def test_the_test_split_is_opened_for_a_second_candidate_only_if_that_is_said(final: Final, tmp_path: Path) -> None:
    ledger, request = Ledger(tmp_path / "ledger.jsonl"), final(tmp_path, epochs=1, precision="float32")
    request.splits.test.open(ledger, "final accuracy of another", request.study, "another")
    with pytest.raises(CheckFailedError, match=r"was opened first at .* for another .*`edgenas train --again`"):
        train_bundle(request, ledger=ledger)
    assert ledger.entries("final_epoch") == [], "nothing was trained in vain"
    made = train_bundle(dataclasses.replace(request, again=True), ledger=ledger)
    assert made.manifest.accuracy.test_candidates == 2


def test_killed_in_the_middle_it_goes_on_from_the_last_epoch(digits: Dataset, final: Final, tmp_path: Path) -> None:
    epochs = 30
    ledger = Ledger(tmp_path / "ledger.jsonl")
    argv = [sys.executable, "-c", _TRAIN, str(tmp_path), str(SMALL), str(digits.folder), str(epochs)]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    deadline = time.monotonic() + 60
    while len(ledger.entries("final_epoch")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = [entry["epoch"] for entry in ledger.entries("final_epoch")]
    assert before[:3] == [1, 2, 3]
    assert before[-1] < epochs
    assert not (tmp_path / "b1").exists()

    request = final(tmp_path, precision="float32", epochs=epochs, folder=tmp_path / "b1", candidate="c")
    resumed = train_bundle(request, ledger=ledger)
    after = [entry["epoch"] for entry in ledger.entries("final_epoch")]
    assert sorted(set(after)) == list(range(1, epochs + 1))
    assert len(after) <= epochs + 1, "at most the epoch whose line was lost is trained twice"
    assert resumed.manifest.accuracy.float_test > 0.5
    assert not (tmp_path / "checkpoint").exists()

    whole = final(tmp_path, precision="float32", epochs=epochs, folder=tmp_path / "b2", checkpoint=tmp_path / "other")
    uninterrupted = train_bundle(whole, ledger=Ledger(tmp_path / "other.jsonl"))
    assert resumed.model_path.read_bytes() == uninterrupted.model_path.read_bytes()


def test_a_checkpoint_of_another_training_is_not_gone_on_from(final: Final, tmp_path: Path) -> None:
    old = tmp_path / "checkpoint" / "epoch-5"
    old.mkdir(parents=True)
    (old / "model.keras").write_bytes(b"of another network")
    (tmp_path / "checkpoint" / "training.json").write_text(json.dumps({"architecture": "another"}))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    train_bundle(final(tmp_path, epochs=1, precision="float32"), ledger=ledger)
    assert [entry["epoch"] for entry in ledger.entries("final_epoch")] == [1]


def test_a_network_of_two_precisions_is_trained_shipped_and_verified(
    final: Final, tmp_path: Path, local: Device, table_of: Callable[..., LatencyTable]
) -> None:
    table, mix = table_of(local, 80.0), Mix((2,), 0.05, 0.08, 0.09)
    request = final(tmp_path, mix=mix, table=table, table_name="here-tiny", epochs=3, with_float32=True)
    limited = dataclasses.replace(request, limits={"max_latency_ms": 1000.0})
    with pytest.raises(CheckFailedError, match=r"no certified table tells what it will be \(no certificate is for a"):
        train_bundle(limited, ledger=Ledger(tmp_path / "ledger.jsonl"))
    allowed = dataclasses.replace(limited, allow=("limits",))
    made = train_bundle(allowed, ledger=Ledger(tmp_path / "ledger.jsonl"))
    manifest = made.manifest
    assert (made.precisions, manifest.float_layers) == (("mixed", "float32"), (2,))
    assert (manifest.predicted.latency_ms, manifest.predicted.latency_interval_ms) == (0.05, None)
    assert manifest.predicted.model_kb == pytest.approx(manifest.model_bytes / 1024, rel=0.1)
    floats, inside = made.model_of("float32").read_bytes(), made.model_path.read_bytes()
    assert "DEQUANTIZE" in operator_kinds(inside)
    assert "DEQUANTIZE" not in operator_kinds(floats)
    assert [gate.passed for gate in manifest.gates] == [True, True, True, True, False]
    shipped = ship(made, local, "shoes")
    assert (shipped.active, shipped.promise) == (manifest.release, "unbacked")
    assert (shipped.predicted_ms, shipped.agreement_on_device) == (0.05, pytest.approx(1.0, abs=0.02))
    assert verify(local, "shoes", bundle=made).agreement_on_device == shipped.agreement_on_device
