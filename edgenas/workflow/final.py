"""From a study's pick to a bundle, and from a bundle to a device."""

from pathlib import Path

import edgenas.files as files
from edgenas.deploy import Bundle, FinalTraining, Shipped, ship, train_bundle
from edgenas.device import Device
from edgenas.errors import InputError
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.table import LatencyTable, table_names
from edgenas.latency.table.finding import mismatch
from edgenas.strategy import reopen


def train(
    study: str,
    pick: str = "knee",
    *,
    samples: bool = True,
    epochs: int | None = None,
    progress: Progress = no_progress,
) -> Bundle:
    """Train the point of a study's front that is picked, and write its bundle below the study.

    The same call after a break goes on from the last whole epoch; when the bundle is there already it is given back.

    Args:
        study: its name.
        pick: "best", "knee" or a point's id.
        samples: whether acceptance images go into the bundle.
        epochs: passes over the data; the study's own number if None.
        progress: called with what is done, how much of how much.

    Raises:
        InputError: no such study or point.
        CheckFailedError: a gate failed, or the test split was opened for another point before.
    """
    prepared = reopen(study)
    settings = prepared.settings
    point = prepared.study.front.pick(pick)
    folder = prepared.study.folder / "bundles" / point.id
    if (folder / "manifest.json").is_file():
        return Bundle.load(folder)
    limits = {n: v for n, v in files.as_mapping(settings.limits).items() if n.startswith("max_")}
    request = FinalTraining(
        architecture=point.architecture,
        precision=settings.precision,
        dataset=prepared.dataset,
        splits=prepared.splits,
        recipe=settings.final.recipe,
        epochs=epochs or settings.final.epochs,
        seed=settings.seed,
        study=settings.study,
        candidate=point.id,
        folder=folder,
        checkpoint=prepared.study.folder / "checkpoints" / point.id,
        table=prepared.table,
        table_name=settings.table,
        limits=limits,
        samples=samples,
    )
    return train_bundle(request, ledger=prepared.study.ledger, progress=progress)


def ship_bundle(
    folder: Path,
    device: str,
    name: str,
    *,
    table: str | None = None,
    to_app: str | None = None,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Shipped:
    """Ship a bundle by its folder to a device by its name.

    Args:
        table: the latency table to hold the device to; by default the bundle's own where it is of this device.
        to_app: of a phone: a debuggable app's package, whose own files the model goes into.
    """
    bundle = Bundle.load(folder)
    target = Device.load(device)
    held_to = _table(bundle, target, table)
    return ship(bundle, target, name, table=held_to, to_app=to_app, dry_run=dry_run, progress=progress)


def _table(bundle: Bundle, device: Device, name: str | None) -> LatencyTable | None:
    used = bundle.manifest.table
    if name is None:
        if used is None or used.name not in table_names():
            return None
        table = LatencyTable.load(used.name)
        fits = mismatch(table, device, bundle.manifest.precision, table.identity.threads) is None
        return table if fits else None
    table = LatencyTable.load(name)
    why = mismatch(table, device, bundle.manifest.precision, table.identity.threads)
    if why is not None:
        raise InputError(f"The latency table {name!r} does not fit: {why}.")
    return table
