"""The last training of the chosen network, the gates it must pass, and the bundle it becomes."""

import dataclasses
import importlib.metadata
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.deploy.bundle import Bundle, Samples, refuse_existing
from edgenas.deploy.describing import described
from edgenas.deploy.manifest import Accuracy, Manifest, Network, Predicted, Preprocessing, Study, TableUsed
from edgenas.errors import CheckFailedError, InputError
from edgenas.evaluation.data import Dataset, Splits, metrics, stratified_sample, wilson_interval
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import Indices, measure, predict, prepare_tensorflow, train
from edgenas.latency import memory
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.table import LatencyTable
from edgenas.ledger import Ledger
from edgenas.model import Precision, convert, converter_version, run_tflite

SAMPLES = 200  # acceptance images in a bundle
CALIBRATION = 200  # training images that an int8 conversion sees
COVERAGE = 0.9  # of the predicted latency's interval
LEAST_AGREEMENT = 0.98  # share of images on which a float32 file must name the class that Keras names
MOST_DROP = 0.03  # of accuracy, that an int8 file may cost
_AT_ONCE = 500  # images in memory


@dataclass(frozen=True)
class FinalTraining:
    """A chosen network and all that turns it into a bundle.

    Attributes:
        architecture, precision: the network, "float32" or "int8".
        dataset, splits: trained on train and validation; gates on acceptance; the test split is opened once.
        recipe, epochs, seed: how it is trained; the seed is the study's.
        study, candidate: the study's name and the network's id there.
        folder: of the bundle to write.
        checkpoint: a folder to go on from after a break; removed when the bundle is written.
        table, table_name: what the choice rests on; None where latency played no part.
        limits: of the study, by name ("max_latency_ms" and so on).
        samples: whether acceptance images go into the bundle; False where data are private.
    """

    architecture: Architecture
    precision: Precision
    dataset: Dataset
    splits: Splits
    recipe: Recipe
    epochs: int
    seed: int
    study: str
    candidate: str
    folder: Path
    checkpoint: Path
    table: LatencyTable | None = None
    table_name: str | None = None
    limits: dict[str, float | None] = dataclasses.field(default_factory=dict)
    samples: bool = True


def train_bundle(request: FinalTraining, *, ledger: Ledger, progress: Progress = no_progress) -> Bundle:
    """Train, convert, pass the gates, open the test split, and write the bundle.

    Args:
        request: what to train and where to write it.
        ledger: the study's; gets `final_epoch`, `test_opened` and `bundle_written`.
        progress: called with what is being done, how much of how much.

    Raises:
        CheckFailedError: the converted file is not the network that was trained, or the test split was opened before
            for another candidate.
        InputError: there is a bundle at `folder` already.
        TrainingError: the loss is not finite.
    """
    refuse_existing(request.folder)
    dataset, splits = request.dataset, request.splits
    with ledger.timed("bundle_written", study=request.study, candidate=request.candidate) as noted:
        prepare_tensorflow()
        model = _train(request, ledger, progress)
        content = _convert(request, model, progress)
        named = request.study, request.architecture, request.precision
        content = described(content, *named, dataset.labels, dataset.policy)
        progress("checking the converted file", 0, 1)
        acceptance = _check(request, model, content)
        progress("opening the test split", 0, 1)
        test = splits.test.open(ledger, f"final accuracy of {request.folder.name}", request.study, request.candidate)
        accuracy = _accuracy(
            dataset.labels,
            float_test=measure(model, dataset, test)["accuracy"],
            test=_scores(content, dataset, test),
            acceptance=acceptance,
        )
        samples = _samples(content, request) if request.samples else None
        bundle = Bundle.write(request.folder, _manifest(request, accuracy), content, dataset.labels, samples)
        noted.update(folder=str(request.folder), files=bundle.manifest.files, accuracy=files.as_mapping(accuracy))
    shutil.rmtree(request.checkpoint, ignore_errors=True)
    return bundle


def _train(request: FinalTraining, ledger: Ledger, progress: Progress) -> Any:
    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        ledger.append("final_epoch", study=request.study, candidate=request.candidate, epoch=epoch, **values)
        progress("training", epoch, request.epochs)

    _begin_checkpoint(request)
    return train(
        request.architecture,
        request.dataset,
        _train_on(request.splits),
        request.recipe,
        request.epochs,
        request.seed,
        checkpoint=request.checkpoint,
        on_epoch=on_epoch,
    )


def _train_on(splits: Splits) -> Indices:
    return np.sort(np.concatenate([splits.train, splits.validation]))


def _begin_checkpoint(request: FinalTraining) -> None:
    """Clear a checkpoint that another training left: it must not be gone on from."""
    indices = _train_on(request.splits)
    about = files.canonical_json(
        {
            "architecture": str(request.architecture),
            "recipe": files.as_mapping(request.recipe),
            "epochs": request.epochs,
            "seed": request.seed,
            "data": request.dataset.identity,
            "images": files.sha256(indices.astype("<i8").tobytes()),
        }
    )
    path = request.checkpoint / "training.json"
    if not path.is_file() or path.read_text(encoding="utf-8") != about:
        shutil.rmtree(request.checkpoint, ignore_errors=True)
        files.write_atomically(path, about)


def _convert(request: FinalTraining, model: Any, progress: Progress) -> bytes:
    progress("converting", 0, 1)
    if request.precision == "float32":
        return convert(model, "float32")
    dataset = request.dataset
    chosen = stratified_sample(dataset.y, _train_on(request.splits), CALIBRATION, request.seed)
    return convert(model, "int8", dataset.x[chosen].astype(np.float32))


def _check(request: FinalTraining, model: Any, content: bytes) -> float:
    """The file's accuracy on the acceptance images, once it is seen to be the network that was trained."""
    dataset, images = request.dataset, request.splits.acceptance
    trained = predict(model, dataset, images).argmax(axis=1)
    deployed = _outputs(content, dataset, images).argmax(axis=1)
    agreement = float((trained == deployed).mean())
    before, after = (float((found == dataset.y[images]).mean()) for found in (trained, deployed))
    if request.precision == "float32" and agreement < LEAST_AGREEMENT:
        raise CheckFailedError(
            f"The converted file is not the network that was trained: it names the same class on {agreement:.1%} of "
            f"{len(images)} acceptance images, expected at least {LEAST_AGREEMENT:.0%}. No bundle was written."
        )
    if request.precision == "int8" and before - after > MOST_DROP:
        raise CheckFailedError(
            f"Quantisation costs too much accuracy: {before:.1%} before and {after:.1%} after on {len(images)} "
            f"acceptance images, at most {100 * MOST_DROP:.0f} points are accepted. No bundle was written; try "
            "precision float32, more epochs, or another network of the front."
        )
    return after


def _outputs(content: bytes, dataset: Dataset, indices: Indices) -> npt.NDArray[Any]:
    """[n, classes] raw outputs of the file."""
    parts = [indices[start : start + _AT_ONCE] for start in range(0, len(indices), _AT_ONCE)]
    return np.concatenate([run_tflite(content, dataset.x[part]) for part in parts])


def _scores(content: bytes, dataset: Dataset, indices: Indices) -> dict[str, Any]:
    return metrics(dataset.y[indices], _outputs(content, dataset, indices).argmax(axis=1), dataset.classes)


def _accuracy(labels: tuple[str, ...], *, float_test: float, test: dict[str, Any], acceptance: float) -> Accuracy:
    return Accuracy(
        float_test=float_test,
        test=test["accuracy"],
        test_interval=wilson_interval(round(test["accuracy"] * test["n"]), test["n"]),
        balanced=test["balanced_accuracy"],
        recall=dict(zip(labels, test["recall"], strict=True)),
        acceptance=acceptance,
    )


def _samples(content: bytes, request: FinalTraining) -> Samples:
    dataset = request.dataset
    chosen = stratified_sample(dataset.y, request.splits.acceptance, SAMPLES, request.seed)
    return Samples(np.asarray(dataset.x[chosen]), dataset.y[chosen], _outputs(content, dataset, chosen))


def _manifest(request: FinalTraining, accuracy: Accuracy) -> Manifest:
    architecture, table = request.architecture, request.table
    return Manifest(
        architecture=Network(str(architecture), architecture.id, architecture.classes),
        precision=request.precision,
        preprocessing=Preprocessing(request.dataset.input_shape, request.dataset.policy),
        study=Study(request.study, request.seed, request.candidate),
        table=None if table is None else TableUsed(request.table_name or "", table.source, table.identity),
        predicted=_predict(architecture, request.precision, table),
        limits=dict(request.limits),
        accuracy=accuracy,
        recipe=request.recipe,
        epochs=request.epochs,
        versions={
            "python": platform.python_version(),
            "converter": converter_version(),
            **{name: importlib.metadata.version(name) for name in ("edgenas", "ai-edge-litert", "numpy")},
        },
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        files={},
    )


def _predict(architecture: Architecture, precision: Precision, table: LatencyTable | None) -> Predicted:
    latency_ms: float | None = None
    interval: tuple[float, float] | None = None
    if table is not None:
        latency_ms = float(table.estimate_ms([architecture])[0])
        try:
            low, high = table.interval_ms([architecture], COVERAGE)
            interval = float(low[0]), float(high[0])
        except InputError:  # no certificate, no promise
            interval = None
    arena_kb, model_kb = (float(f([architecture], precision)[0]) for f in (memory.arena_kb, memory.model_kb))
    doubt = "no latency table was given" if table is None else table.doubt
    coverage = COVERAGE if interval else None
    return Predicted(latency_ms, interval, coverage, doubt, arena_kb, model_kb, arena_kb + model_kb)
