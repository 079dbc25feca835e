"""edgenas train, ship, rollback, deployed."""

from pathlib import Path
from typing import Any

import click

from edgenas.cli.printing import json_option, print_json, print_pairs, print_table, progress_bars, stdout


@click.command()
@click.argument("study")
@click.option("--pick", default="knee", show_default=True, help="best, knee, or the id of a point of the front.")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the study's own number.")
@click.option("--no-samples", is_flag=True, help="Put no images into the bundle: the data are private.")
@json_option
def train(study: str, pick: str, epochs: int | None, no_samples: bool, as_json: bool) -> None:
    """Train a point of STUDY's front fully and write a bundle.

    The test split is opened for it once. Interrupted, the same command goes on from the last whole epoch.

    \b
    Example: edgenas train shoes --pick knee
    """
    from edgenas.workflow import train as train_pick

    with progress_bars() as progress:
        bundle = train_pick(study, pick, samples=not no_samples, epochs=epochs, progress=progress)
    if as_json:
        accuracy = bundle.manifest.accuracy
        print_json({"bundle": str(bundle.folder), "id": bundle.manifest.architecture.id, "test_accuracy": accuracy.test,
                    "test_interval": accuracy.test_interval, "balanced_accuracy": accuracy.balanced,
                    "recall": accuracy.recall, "float_test_accuracy": accuracy.float_test})  # fmt: skip
    else:
        print_bundle(bundle)


def print_bundle(bundle: Any) -> None:
    """What a bundle promises, for people."""
    manifest = bundle.manifest
    accuracy, predicted = manifest.accuracy, manifest.predicted
    low, high = accuracy.test_interval
    pairs = {
        "bundle": bundle.folder,
        "network": f"{manifest.architecture.id}, {manifest.precision}",
        "test accuracy": f"{accuracy.test:.2%} (95%: {low:.2%} to {high:.2%}) of the .tflite file, "
        f"{accuracy.float_test:.2%} before conversion",
        "recall": ", ".join(
            f"{label} {'-' if share is None else f'{share:.0%}'}" for label, share in accuracy.recall.items()
        ),
    }
    if predicted.latency_ms is not None and predicted.latency_interval_ms is not None:
        low, high = predicted.latency_interval_ms
        pairs["predicted"] = (
            f"{predicted.latency_ms:.3f} ms ({low:.3f} to {high:.3f}), {predicted.peak_memory_kb:.0f} kB"
            + (f"; NO PROMISE: {predicted.doubt}" if predicted.doubt else "")
        )
    print_pairs(pairs)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("device")
@click.option("--as", "name", required=True, help="The model's name on the device.")
@click.option("--table", help="The latency table to hold the device to.")
@click.option("--to-app", metavar="PACKAGE", help="Phones: into the own files of this debuggable app.")
@click.option("--dry-run", is_flag=True, help="Send, verify and measure, but do not switch.")
@json_option
def ship(
    bundle: Path, device: str, name: str, table: str | None, to_app: str | None, dry_run: bool, as_json: bool
) -> None:
    """Send BUNDLE to DEVICE, verify and measure it there, and make it live.

    If anything fails the model before stays live.

    \b
    Example: edgenas ship studies/shoes/bundles/3f2a9c0b1d4e pi --as shoes
             edgenas ship studies/shoes/bundles/3f2a9c0b1d4e phone --as shoes --to-app com.example.shoes
    """
    import dataclasses

    from edgenas.workflow import ship_bundle

    with progress_bars() as progress:
        shipped = ship_bundle(bundle, device, name, table=table, to_app=to_app, dry_run=dry_run, progress=progress)
    print_json(dataclasses.asdict(shipped)) if as_json else print_shipped(shipped)


def print_shipped(shipped: Any) -> None:
    """What runs on the device now, for people."""
    times = shipped.latency_ms
    measured = f"median {times['median']:.3f} ms, p90 {times['p90']:.3f} ms"
    if shipped.normalised_ms is not None:
        measured += f"; at the table's machine speed {shipped.normalised_ms:.3f} ms"
    pairs = {
        "live" if not shipped.dry_run else "dry run": f"{shipped.name} release {shipped.active} on {shipped.device}",
        "before": "none" if shipped.previous is None else f"release {shipped.previous}, kept for rollback",
        "agreement": next((check.detail for check in shipped.checks if check.name == "agreement"), "no samples")
        if shipped.agreement_on_device is None
        else f"{shipped.agreement_on_device:.1%} of the samples get the host's class on the device",
        "measured": measured,
        "predicted": "-"
        if shipped.predicted_ms is None
        else f"{shipped.predicted_ms:.3f} ms: promise {shipped.promise}",
    }
    print_pairs(pairs)


@click.command()
@click.argument("device")
@click.argument("name")
@click.option("--to-app", metavar="PACKAGE", help="Phones: in the own files of this debuggable app.")
@json_option
def rollback(device: str, name: str, to_app: str | None, as_json: bool) -> None:
    """Make the release of model NAME live that was live before.

    \b
    Example: edgenas rollback pi shoes
    """
    from edgenas.deploy import rollback as roll_back
    from edgenas.device import Device

    done = roll_back(Device.load(device), name, to_app)
    if as_json:
        print_json({"device": device, "name": name, "active": done.active, "previous": done.previous})
    else:
        stdout.print(f"{name} on {device}: release {done.active} is live again.", markup=False)


@click.command()
@click.argument("device")
@click.option("--to-app", metavar="PACKAGE", help="Phones: in the own files of this debuggable app.")
@json_option
def deployed(device: str, to_app: str | None, as_json: bool) -> None:
    """List what runs on DEVICE.

    \b
    Example: edgenas deployed pi
    """
    import dataclasses

    from edgenas.deploy import deployed as releases
    from edgenas.device import Device

    found = releases(Device.load(device), to_app)
    if as_json:
        print_json({"device": device, "models": [dataclasses.asdict(one) for one in found]})
    elif found:
        print_table(
            ("name", "release", "before", "since"), [(f.name, f.release, f.previous or "-", f.since) for f in found]
        )
    else:
        stdout.print(f"Nothing is deployed on {device}.", markup=False)
