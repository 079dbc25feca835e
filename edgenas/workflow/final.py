"""From a study's pick to a bundle, and from a bundle to a device."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import edgenas.files as files
from edgenas.deploy import Bundle, FinalTraining, Shipped, ship, train_bundle
from edgenas.deploy.answers import Answers, answers_path
from edgenas.deploy.bundle import SUFFIX
from edgenas.deploy.fleet import Outcome, Rollout, chosen, ship_to_all
from edgenas.deploy.keys import SigningKey
from edgenas.deploy.pausing import Pause
from edgenas.deploy.training import load_course
from edgenas.device import Device
from edgenas.errors import EdgeNASError, InputError
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.table import LatencyTable, table_names
from edgenas.latency.table.finding import find_table, mismatch
from edgenas.latency.table.mixed import MIXED, Mix, fastest_mix
from edgenas.ledger import Ledger
from edgenas.model import Precision
from edgenas.report.curves import curves_folder, write_curves
from edgenas.report.mistakes import mistakes_folder, write_mistakes
from edgenas.space import MobileSpace
from edgenas.strategy import Point, Prepared, reopen, study_folder, study_names

FilePrecision = Literal["float32", "int8", "mixed"]


def train(
    study: str,
    pick: str = "knee",
    *,
    samples: bool = True,
    steps: int | None = None,
    most_steps: int | None = None,
    key: SigningKey | None = None,
    precision: FilePrecision | None = None,
    allow: Sequence[str] = (),
    with_float32: bool = False,
    again: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Train the point of a study's front that is picked, and write its bundle below the study, as a folder and packed.

    The same call after a break goes on from the last whole round of steps; when the bundle is there already it is given
    back, unless it is another one than is asked for.

    Args:
        study: its name.
        pick: "best", "knee" or a point's id.
        samples: whether acceptance images go into the bundle.
        steps: of the training; None: as the study says, or as images held out tell.
        most_steps: of each training that looks for how many; None: as the study says.
        key: signs the bundle.
        with_float32: whether an int8 bundle has the float32 file too, for devices where that is the faster one.
        precision: another one than the study's; its latency is predicted where a table for it is there. "mixed": int8,
            but for the layers that the device runs faster in float32, as its tables of both precisions tell.
        allow: names of gates that may fail; the manifest says so.
        again: train another point than the one that the test split was opened for; ledger and manifest say so.
        progress: called with what is done, how much of how much.

    Raises:
        InputError: no such study, point or gate; or there is another bundle of the point; or no mix of precisions is
            faster than one of them throughout.
        CheckFailedError: gates failed, or the test split was opened for another point before.
    """
    prepared = reopen(study)
    settings, point = prepared.settings, prepared.study.front.pick(pick)
    request = _of_study(prepared, point, precision or settings.precision)
    packed = request.folder.with_name(request.folder.name + SUFFIX)
    if (request.folder / "manifest.json").is_file():
        bundle = Bundle.load(request.folder)
        _refuse_other_wishes(bundle, samples, steps, key, with_float32)
        if not packed.is_file():
            bundle.pack(packed)
        return bundle
    request = dataclasses.replace(
        request,
        steps=steps or request.steps,
        most_steps=most_steps or request.most_steps,
        samples=samples,
        key=key,
        with_float32=with_float32,
        allow=tuple(allow),
        again=again,
    )
    bundle = train_bundle(request, ledger=prepared.study.ledger, progress=progress)
    found = Answers.load(answers_path(request.folder))
    write_mistakes(prepared.dataset, found, mistakes_folder(prepared.study.folder, request.folder.name))
    write_curves(load_course(request.folder), curves_folder(prepared.study.folder, request.folder.name))
    bundle.pack(packed)
    return bundle


def _of_study(prepared: Prepared, point: Point, file_precision: FilePrecision) -> FinalTraining:
    """The final training of a point as its study says."""
    settings, folder = prepared.settings, prepared.study.folder
    name = point.id if file_precision == settings.precision else f"{point.id}-{file_precision}"
    precision: Precision = "float32" if file_precision == "float32" else "int8"
    table_name, table = _table_of(prepared, precision)
    return FinalTraining(
        architecture=point.architecture,
        precision=precision,
        mix=_mix(prepared, point) if file_precision == MIXED else None,
        dataset=prepared.dataset,
        splits=prepared.splits,
        recipe=settings.recipe,
        steps=settings.final.steps,
        most_steps=settings.final.most_steps,
        seed=settings.seed,
        study=settings.study,
        candidate=point.id,
        folder=folder / "bundles" / name,
        checkpoint=folder / "checkpoints" / name,
        table=table,
        table_name=table_name,
        limits={n: v for n, v in files.as_mapping(settings.limits).items() if n.startswith("max_")},
        coverage=settings.limits.coverage,
    )


def _refuse_other_wishes(
    bundle: Bundle, samples: bool, steps: int | None, key: SigningKey | None, with_float32: bool
) -> None:
    """Raise `InputError` where a bundle that is there already is not what is asked for now."""
    manifest, other = bundle.manifest, []
    if steps not in (None, manifest.steps):
        other.append(f"it was trained for {manifest.steps} steps")
    if not samples and bundle.samples is not None:
        other.append("it has samples")
    if with_float32 and "float32" not in bundle.precisions:
        other.append("it has no float32 file")
    if other:
        raise InputError(
            f"The bundle {bundle.folder} is there already, and is another one: {'; '.join(other)}. To train it anew, "
            f"remove it first, and {bundle.folder.name}{SUFFIX} beside it."
        )
    if key is not None and bundle.signed_by != key.public.id:
        raise InputError(
            f"The bundle {bundle.folder} is there already, and your key {key.public.name!r} has not signed it. It does "
            f"that with: edgenas sign {bundle.folder} --key {key.public.name}"
        )


def _table_of(prepared: Prepared, precision: Precision) -> tuple[str | None, LatencyTable | None]:
    """The table of a precision, where there is just one."""
    try:
        return _only_table(prepared, precision)
    except InputError:
        return None, None


def _only_table(prepared: Prepared, precision: Precision) -> tuple[str, LatencyTable]:
    """The study's table, or for another precision the one of the same device that fits.

    Raises:
        InputError: there is none, or more than one.
    """
    settings = prepared.settings
    if precision == settings.precision:
        return settings.table, prepared.table
    space = MobileSpace(settings.space, settings.input_shape, prepared.dataset.classes, settings.activation)
    return find_table(prepared.device, space, precision, settings.threads)


def _mix(prepared: Prepared, point: Point) -> Mix:
    """Which layers of a point stay in float32.

    Raises:
        InputError: a table is missing, or no mix is faster than one precision throughout.
    """
    int8, float32 = _only_table(prepared, "int8")[1], _only_table(prepared, "float32")[1]
    mix = fastest_mix(int8, float32, point.architecture)
    if not mix.pays:
        better = "int8" if mix.int8_ms <= mix.float32_ms else "float32"
        raise InputError(
            f"No mix of precisions is predicted to be faster for {point.id} on {prepared.device.name}: int8 takes "
            f"{mix.int8_ms:.3f} ms, float32 {mix.float32_ms:.3f} ms. Use --precision {better}."
        )
    return mix


def ship_bundle(
    path: Path,
    device: str,
    name: str,
    *,
    table: str | None = None,
    precision: str | None = None,
    keep: int = 2,
    to_app: str | None = None,
    dry_run: bool = False,
    require_promise: bool = False,
    pause: Pause | None = None,
    progress: Progress = no_progress,
) -> Shipped:
    """Ship a bundle, a folder or a `.edgenas` file, to a device by its name.

    Args:
        table: the latency table to hold the device to; by default the bundle's own where it is of this device, or one
            of the device that fits where there is just one.
        precision: which of the bundle's models; None: the one it was made for.
        to_app: of a phone: a debuggable app's package, whose own files the model goes into.
        require_promise: go live only where the table's promise was judged, and is kept.
        pause: what does not run on the device while the model is measured.
    """
    bundle = Bundle.load(path)
    target = Device.load(device)
    used = _own_table(bundle, target, precision) if table is None else _named_table(bundle, target, table, precision)
    shipped = ship(
        bundle, target, name, table=used, precision=precision, keep=keep, to_app=to_app, dry_run=dry_run,
        require_promise=require_promise, pause=pause, progress=progress,
    )  # fmt: skip
    if not dry_run:
        _note(bundle, shipped)
    return shipped


def _note(bundle: Bundle, shipped: Shipped) -> None:
    """Into the ledger of the study that the bundle is of, where that is here: the report says what runs where."""
    study = bundle.manifest.study
    if study.name in study_names():
        Ledger(study_folder(study.name) / "ledger.jsonl").append(
            "shipped",
            device=shipped.device,
            name=shipped.name,
            release=shipped.release,
            candidate=study.candidate,
            latency_ms=shipped.latency_ms,
            promise=shipped.promise,
        )


def ship_to_fleet(
    path: Path,
    pattern: str,
    name: str,
    rollout: Rollout,
    told: Callable[[Outcome], None] = lambda outcome: None,
    interrupted: threading.Event | None = None,
) -> list[Outcome]:
    """Ship a bundle to all devices whose names match a pattern such as "pi-*"; see `ship_to_all`.

    Each is held to its own latency table where there is one that fits: the bundle's, or one of the same settings.
    """
    bundle = Bundle.load(path)
    outcomes = ship_to_all(
        bundle, chosen(pattern), name, rollout,
        table_of=lambda device: _own_table(bundle, device, rollout.precision), told=told, interrupted=interrupted,
    )  # fmt: skip
    for outcome in outcomes:
        if outcome.state == "changed" and outcome.shipped is not None:
            _note(bundle, outcome.shipped)
    return outcomes


def _own_table(bundle: Bundle, device: Device, precision: str | None = None) -> LatencyTable | None:
    """The table of a device that knows the bundle's network: the one that it rests on, or else the only one.

    It is of as many threads as the bundle was made for.
    """
    precision, used = precision or bundle.manifest.precision, bundle.manifest.table
    threads = 1 if used is None else used.identity.threads
    found = {}
    for name in table_names():
        with contextlib.suppress(EdgeNASError):  # spoiled, or of another space
            table = LatencyTable.load(name)
            if mismatch(table, device, precision, threads) is None:
                table.estimate_ms([bundle.architecture])
                found[name] = table
    if used is not None and used.name in found:
        return found[used.name]
    return next(iter(found.values())) if len(found) == 1 else None


def _named_table(bundle: Bundle, device: Device, name: str, precision: str | None) -> LatencyTable:
    table = LatencyTable.load(name)
    why = mismatch(table, device, precision or bundle.manifest.precision, table.identity.threads)
    if why is not None:
        raise InputError(f"The latency table {name!r} does not fit: {why}.")
    return table
