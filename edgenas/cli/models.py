"""edgenas train, ship, rollback, deployed."""

from pathlib import Path
from typing import Any

import click

from edgenas.cli.printing import json_option, print_json, print_pairs, print_table, progress_bars, stdout

# As in edgenas.deploy, which takes too long to import for a --help.
GATES = ("float_conversion", "quantisation", "builtin_operators", "raw_pixels", "limits")


@click.command()
@click.argument("study")
@click.option("--pick", default="knee", show_default=True, help="best, knee, or the id of a point of the front.")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the study's own number.")
@click.option("--precision", type=click.Choice(["float32", "int8"]), help="Instead of the study's own.")
@click.option(
    "--allow",
    multiple=True,
    metavar="GATE",
    type=click.Choice(GATES),
    help=f"Let this gate fail; the manifest says so. May be given again. Gates: {', '.join(GATES)}.",
)
@click.option("--no-samples", is_flag=True, help="Put no images into the bundle: the data are private.")
@json_option
def train(
    study: str,
    pick: str,
    epochs: int | None,
    precision: Any,
    allow: tuple[str, ...],
    no_samples: bool,
    as_json: bool,
) -> None:
    """Train a point of STUDY's front fully, see it through all gates and write a bundle.

    Where int8 costs more than a point of accuracy the network is fine-tuned for it. The test split is opened once, when
    the gates are passed. Interrupted, the same command goes on from the last whole epoch.

    \b
    Example: edgenas train shoes --pick knee
    """
    import dataclasses

    from edgenas.workflow import faster_precision
    from edgenas.workflow import train as train_pick

    with progress_bars() as progress:
        bundle = train_pick(
            study, pick, samples=not no_samples, epochs=epochs, precision=precision, allow=allow, progress=progress
        )
    manifest, faster = bundle.manifest, faster_precision(bundle)
    if as_json:
        accuracy = manifest.accuracy
        print_json({"bundle": str(bundle.folder), "id": manifest.architecture.id, "precision": manifest.precision,
                    "test_accuracy": accuracy.test, "test_interval": accuracy.test_interval,
                    "balanced_accuracy": accuracy.balanced, "recall": accuracy.recall,
                    "float_test_accuracy": accuracy.float_test, "float_test_interval": accuracy.float_test_interval,
                    "gates": [dataclasses.asdict(gate) for gate in manifest.gates],
                    "repair": dataclasses.asdict(manifest.repair),
                    "faster_precision": None if faster is None else dataclasses.asdict(faster)})  # fmt: skip
        return
    print_bundle(bundle)
    if faster is not None:
        low, high = faster.latency_interval_ms
        again = f"edgenas train {study} --pick {manifest.study.candidate} --precision {faster.precision}"
        stdout.print(
            f"{faster.precision} is predicted to be faster on this device: {faster.latency_ms:.3f} ms ({low:.3f} to "
            f"{high:.3f}) by {faster.table}. Try: {again}",
            markup=False,
        )


def print_bundle(bundle: Any) -> None:
    """What a bundle promises, for people."""
    manifest = bundle.manifest
    accuracy, predicted = manifest.accuracy, manifest.predicted
    low, high = accuracy.test_interval
    float_low, float_high = accuracy.float_test_interval
    pairs = {
        "bundle": bundle.folder,
        "network": f"{manifest.architecture.id}, {manifest.precision}",
        "test accuracy": f"{accuracy.test:.2%} (95%: {low:.2%} to {high:.2%}) of the .tflite file, "
        f"{accuracy.float_test:.2%} ({float_low:.2%} to {float_high:.2%}) before conversion",
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
    repair = manifest.repair
    if repair.loss_before is not None and repair.loss_after is not None:
        kept = "fine-tuned for int8" if repair.kind == "fine-tuned" else "fine-tuning did not help and was left"
        pairs["repair"] = (
            f"{kept}: int8 cost {100 * repair.loss_before:.2f} points on the selection images before, "
            f"{100 * repair.loss_after:.2f} after {repair.epochs} epochs"
        )
    for gate in manifest.gates:
        state = "passed" if gate.passed else "FAILED, ALLOWED"
        pairs[f"gate {gate.name}"] = f"{state}: {gate.detail}"
    print_pairs(pairs)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("device")
@click.option("--as", "name", required=True, help="The model's name on the device.")
@click.option("--table", help="The latency table to hold the device to.")
@click.option("--dry-run", is_flag=True, help="Send, verify and measure, but do not switch.")
@json_option
def ship(bundle: Path, device: str, name: str, table: str | None, dry_run: bool, as_json: bool) -> None:
    """Send BUNDLE to DEVICE, verify and measure it there, and make it live.

    If anything fails the model before stays live.

    \b
    Example: edgenas ship studies/shoes/bundles/3f2a9c0b1d4e pi --as shoes
    """
    import dataclasses

    from edgenas.workflow import ship_bundle

    with progress_bars() as progress:
        shipped = ship_bundle(bundle, device, name, table=table, dry_run=dry_run, progress=progress)
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
        "agreement": "no samples"
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
@json_option
def rollback(device: str, name: str, as_json: bool) -> None:
    """Make the release of model NAME live that was live before.

    \b
    Example: edgenas rollback pi shoes
    """
    from edgenas.deploy import rollback as roll_back
    from edgenas.device import Device

    done = roll_back(Device.load(device), name)
    if as_json:
        print_json({"device": device, "name": name, "active": done.active, "previous": done.previous})
    else:
        stdout.print(f"{name} on {device}: release {done.active} is live again.", markup=False)


@click.command()
@click.argument("device")
@json_option
def deployed(device: str, as_json: bool) -> None:
    """List what runs on DEVICE.

    \b
    Example: edgenas deployed pi
    """
    import dataclasses

    from edgenas.deploy import deployed as releases
    from edgenas.device import Device

    found = releases(Device.load(device))
    if as_json:
        print_json({"device": device, "models": [dataclasses.asdict(one) for one in found]})
    elif found:
        print_table(
            ("name", "release", "before", "since"), [(f.name, f.release, f.previous or "-", f.since) for f in found]
        )
    else:
        stdout.print(f"Nothing is deployed on {device}.", markup=False)
