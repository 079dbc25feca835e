"""The last training of the chosen network, the gates it must pass, and the bundle it becomes."""

import dataclasses
import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.deploy import gates
from edgenas.deploy.answers import Answers, answers_path
from edgenas.deploy.bundle import Bundle, refuse_existing
from edgenas.deploy.describing import described
from edgenas.deploy.keys import SigningKey
from edgenas.deploy.manifest import (
    Accuracy,
    Gate,
    Manifest,
    Network,
    Predicted,
    Preprocessing,
    Study,
    TableUsed,
    new_release,
)
from edgenas.deploy.quantising import Files, Material, make_files, outputs, right
from edgenas.deploy.samples import Samples
from edgenas.errors import CheckFailedError, InputError, reading
from edgenas.evaluation.curve import Curve
from edgenas.evaluation.data import Dataset, Splits, metrics, stratified_sample, wilson_interval
from edgenas.evaluation.finetuning import fine_tuning_steps
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.stopping import MOST_STEPS, Course, Stop, advice, find_stop
from edgenas.evaluation.training import Indices, OnRound, measure, predict, prepare_tensorflow, train
from edgenas.latency import memory
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.table import LatencyTable, mixed
from edgenas.latency.table.mixed import MIXED, Mix
from edgenas.ledger import Ledger
from edgenas.model import Precision, converter_version

SAMPLES = 200  # acceptance images in a bundle


@dataclass(frozen=True)
class FinalTraining:
    """A chosen network and all that turns it into a bundle.

    Attributes:
        architecture, precision: the network, "float32" or "int8".
        mix: which layers of an int8 network stay in float32; None: it is int8 throughout.
        dataset, splits: trained on train and validation; gates on acceptance; the test split is opened once.
        recipe, seed: how it is trained; the seed is the study's.
        steps: of the training; None: found by training with images held out, `most_steps` at most (see `find_stop`).
        study, candidate: the study's name and the network's id there.
        folder: of the bundle to write.
        checkpoint: a folder to go on from after a break; removed when the bundle is written.
        table, table_name: what the choice rests on; None where latency played no part. With a mix, the int8 one.
        limits: of the study, by name ("max_latency_ms" and so on).
        coverage: of the predicted latency's interval, whose upper end is held against its limit.
        samples: whether acceptance images go into the bundle; False where data are private.
        key: signs the bundle; None: it stays unsigned.
        with_float32: whether an int8 bundle has the float32 file too, for devices where that is the faster one.
        allow: names of gates that may fail.
        again: open the test split though it was opened for another candidate before.
    """

    architecture: Architecture
    precision: Precision
    dataset: Dataset
    splits: Splits
    recipe: Recipe
    seed: int
    study: str
    candidate: str
    folder: Path
    checkpoint: Path
    steps: int | None = None
    most_steps: int = MOST_STEPS
    mix: Mix | None = None
    table: LatencyTable | None = None
    table_name: str | None = None
    limits: dict[str, float | None] = dataclasses.field(default_factory=dict)
    coverage: float = 0.9
    samples: bool = True
    key: SigningKey | None = None
    with_float32: bool = False
    allow: tuple[str, ...] = ()
    again: bool = False

    @property
    def float_layers(self) -> tuple[int, ...]:
        """Numbers of an int8 network's layers that stay in float32."""
        return self.mix.float_layers if self.mix else ()

    @property
    def file_precision(self) -> str:
        """The precision of the file to deploy: "float32", "int8" or "mixed"."""
        return MIXED if self.mix else self.precision


def train_bundle(request: FinalTraining, *, ledger: Ledger, progress: Progress = no_progress) -> Bundle:
    """Train, convert, pass the gates, open the test split, and write the bundle.

    Args:
        request: what to train and where to write it.
        ledger: the study's; gets `final_round`, `test_opened` and `bundle_written`.
        progress: called with what is being done, how much of how much.

    Raises:
        CheckFailedError: gates failed that `allow` does not name, or the test split was opened before for another
            candidate and is not to be opened again.
        InputError: there is a bundle at `folder` already, or `allow` names no gate.
        TrainingError: the loss is not finite.
    """
    refuse_existing(request.folder)
    gates.check_names(request.allow)
    dataset, splits = request.dataset, request.splits
    if not request.again:
        splits.test.refuse_second(ledger, request.study, request.candidate)  # before all the work
    with ledger.timed("bundle_written", study=request.study, candidate=request.candidate) as noted:
        prepare_tensorflow()
        _begin_checkpoint(request)
        stop = _stop(request, progress)
        if not stop.learned and gates.HAS_LEARNED not in request.allow:
            raise CheckFailedError(
                f"{request.candidate} has learned nothing in {max(stop.curves[0].steps)} steps: on images held out it "
                f"is no better than a guess. Look at the data with `edgenas data check`, or let "
                f"it pass with --allow {gates.HAS_LEARNED}."
            )
        steps = request.steps or stop.steps
        request = dataclasses.replace(
            request, steps=steps, recipe=dataclasses.replace(request.recipe, augment=stop.grade)
        )
        model, last = _train(request, ledger, progress)
        made = _files(request, model, ledger, progress)
        made = _described(request, made)
        progress("running the gates", 0, 1)
        passed = gates.let_through(_gates(request, made), request.allow)
        progress("opening the test split", 0, 1)
        purpose = f"final accuracy of {request.folder.name}"
        test = splits.test.open(ledger, purpose, request.study, request.candidate, again=request.again)
        found = outputs(made.content, dataset, test)
        accuracy = _accuracy(request, made, test, found, splits.test.candidates(ledger, request.study))
        Answers(test, found).save(answers_path(request.folder))
        beside = _beside(request, made)
        samples = _samples(made.content, beside, request) if request.samples else None
        manifest = _manifest(request, made, accuracy, passed)
        bundle = Bundle.write(
            request.folder, manifest, made.content, dataset.labels, samples, request.key, float_model=beside
        )
        last = dataclasses.replace(last, name="last training")
        course = Course(stop.curves, last, advice(stop) if stop.curves else "")
        files.write_atomically(course_path(request.folder), files.canonical_json(files.as_mapping(course)))
        noted.update(folder=str(request.folder), files=bundle.manifest.files, accuracy=files.as_mapping(accuracy))
    shutil.rmtree(request.checkpoint, ignore_errors=True)
    return bundle


def course_path(bundle: Path) -> Path:
    """Where a bundle's `Course` lies: beside its folder, for what is in it travels."""
    return bundle.with_name(f"{bundle.name}.course.json")


def load_course(bundle: Path) -> Course:
    """How the training of a bundle went.

    Raises:
        InputError: it is not there, or not whole.
    """
    path = course_path(bundle)
    with reading(str(path)):
        return files.from_mapping(Course, files.parse_json(path.read_bytes()), str(path))


def _stop(request: FinalTraining, progress: Progress) -> Stop:
    """How long the training is to be, as it was asked or as images held out tell, and how its images are varied."""
    train_on, recipe = _material(request).train_on, request.recipe
    if request.steps is not None:
        return Stop(request.steps, recipe.augment or "light", True, True, ())
    return find_stop(
        request.architecture,
        request.dataset,
        request.splits.rounds,
        train_on,
        recipe,
        request.seed,
        most_steps=request.most_steps,
        checkpoint=request.checkpoint / "stop",
        told=progress,
    )


def _train(request: FinalTraining, ledger: Ledger, progress: Progress) -> tuple[Any, Curve]:
    """The trained model, and how it got there."""
    steps = request.steps or 0
    return train(
        request.architecture,
        request.dataset,
        _material(request).train_on,
        request.recipe,
        steps,
        request.seed,
        checkpoint=request.checkpoint / "last",
        on_round=_noting(request, ledger, "final_round", lambda done: progress("training", done, steps)),
    )


def _files(request: FinalTraining, model: Any, ledger: Ledger, progress: Progress) -> Files:
    progress("converting", 0, 1)
    material = _material(request)
    steps = fine_tuning_steps(material.train_on, request.recipe)

    def told(done: int) -> None:
        progress("fine-tuning for int8", done, steps)

    on_round = _noting(request, ledger, "fine_tuning_round", told)
    return make_files(model, request.precision, material, on_round=on_round)


def _noting(request: FinalTraining, ledger: Ledger, event: str, told: Callable[[int], None]) -> OnRound:
    def on_round(done: int, values: dict[str, float]) -> None:
        ledger.append(event, study=request.study, candidate=request.candidate, steps=done, **values)
        told(done)

    return on_round


def _material(request: FinalTraining) -> Material:
    checkpoint = request.checkpoint / "fine-tuning"
    return Material(request.dataset, request.splits, request.recipe, request.seed, request.float_layers, checkpoint)


def _begin_checkpoint(request: FinalTraining) -> None:
    """Clear a checkpoint that another training left: it must not be gone on from."""
    indices = _material(request).train_on
    about = files.canonical_json(
        {
            "architecture": str(request.architecture),
            "recipe": files.as_mapping(request.recipe),
            "steps": request.steps,
            "most_steps": request.most_steps,
            "seed": request.seed,
            "data": request.dataset.identity,
            "images": files.sha256(indices.astype("<i8").tobytes()),
        }
    )
    path = request.checkpoint / "training.json"
    if not path.is_file() or path.read_text(encoding="utf-8") != about:
        shutil.rmtree(request.checkpoint, ignore_errors=True)
        files.write_atomically(path, about)


def _gates(request: FinalTraining, made: Files) -> list[Gate]:
    dataset, images, content = request.dataset, request.splits.acceptance, made.content
    trained = predict(made.model, dataset, images)
    named = outputs(content, dataset, images).argmax(axis=1)
    found = [
        gates.has_learned(dataset.y[images], named, dataset.classes),
        gates.float_conversion(trained, outputs(made.float32, dataset, images)),
    ]
    if request.precision == "int8":
        found.append(gates.quantisation(*(right(file, dataset, images) for file in (made.reference, content))))
    predicted = _predict(request)
    beside = _beside(request, made)
    return [
        *found,
        gates.builtin_operators(content, *filter(None, [beside])),
        gates.raw_pixels(content, request.precision, beside),
        gates.limits(request.limits, predicted, len(content) / 1024),
    ]


def _beside(request: FinalTraining, made: Files) -> bytes | None:
    """The float32 file that goes into the bundle of an int8 one, where it is asked for."""
    return made.float32 if request.with_float32 and request.precision == "int8" else None


def _accuracy(request: FinalTraining, made: Files, test: Indices, raw: npt.NDArray[Any], candidates: int) -> Accuracy:
    dataset, content = request.dataset, made.content
    float_test = measure(made.model, dataset, test)["accuracy"]
    found = metrics(dataset.y[test], raw.argmax(axis=1), dataset.classes)
    return Accuracy(
        float_test=float_test,
        float_test_interval=wilson_interval(round(float_test * len(test)), len(test)),
        test=found["accuracy"],
        test_interval=wilson_interval(round(found["accuracy"] * len(test)), len(test)),
        balanced=found["balanced_accuracy"],
        recall=dict(zip(dataset.labels, found["recall"], strict=True)),
        acceptance=float(right(content, dataset, request.splits.acceptance).mean()),
        test_candidates=candidates,
    )


def _described(request: FinalTraining, made: Files) -> Files:
    """The files with what they say of themselves in them: what is tested is what ships."""
    labels, policy = request.dataset.labels, request.dataset.policy
    about = request.study, request.architecture
    content = described(made.content, *about, request.file_precision, labels, policy)
    return dataclasses.replace(
        made, content=content, float32=described(made.float32, *about, "float32", labels, policy)
    )


def _samples(content: bytes, float_content: bytes | None, request: FinalTraining) -> Samples:
    dataset = request.dataset
    chosen = stratified_sample(dataset.y, request.splits.acceptance, SAMPLES, request.seed)
    return Samples(
        np.asarray(dataset.x[chosen]),
        dataset.y[chosen],
        outputs(content, dataset, chosen),
        None if float_content is None else outputs(float_content, dataset, chosen),
    )


def _manifest(request: FinalTraining, made: Files, accuracy: Accuracy, passed: tuple[Gate, ...]) -> Manifest:
    architecture, table = request.architecture, request.table
    return Manifest(
        architecture=Network(str(architecture), architecture.id, architecture.classes),
        precision=request.file_precision,
        float_layers=request.float_layers,
        preprocessing=Preprocessing(request.dataset.input_shape, request.dataset.policy),
        study=Study(request.study, request.seed, request.candidate),
        table=None if table is None else TableUsed(request.table_name or "", table.source, table.identity),
        predicted=_predict(request),
        limits=dict(request.limits),
        accuracy=accuracy,
        gates=passed,
        repair=made.repair,
        recipe=request.recipe,
        steps=request.steps or 0,
        versions={
            "python": platform.python_version(),
            "converter": converter_version(),
            **{name: importlib.metadata.version(name) for name in ("edgenas", "ai-edge-litert", "numpy")},
        },
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        release=new_release(),
        files={},
        model_bytes=0,
    )


def _predict(request: FinalTraining) -> Predicted:
    architecture, table = request.architecture, request.table
    latency_ms: float | None = None
    interval: tuple[float, float] | None = None
    doubt = "no latency table was given" if table is None else table.doubt
    if request.mix is not None:
        latency_ms, doubt = request.mix.latency_ms, mixed.DOUBT
        arena_kb, model_kb = memory.mixed_memory_kb(architecture, request.float_layers)
    else:
        arena_kb, model_kb = (
            float(f([architecture], request.precision)[0]) for f in (memory.arena_kb, memory.model_kb)
        )
        if table is not None:
            latency_ms = float(table.estimate_ms([architecture])[0])
            interval = _interval(table, architecture, request.coverage)
    coverage = request.coverage if interval else None
    return Predicted(latency_ms, interval, coverage, doubt, arena_kb, model_kb, arena_kb + model_kb)


def _interval(table: LatencyTable, architecture: Architecture, coverage: float) -> tuple[float, float] | None:
    try:
        low, high = table.interval_ms([architecture], coverage)
    except InputError:  # no certificate, no promise
        return None
    return float(low[0]), float(high[0])
