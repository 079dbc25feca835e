"""edgenas train, predict, sign."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from edgenas.cli.printing import json_option, print_json, print_pairs, progress_bars, stdout

# As in edgenas.deploy, which takes too long to import for a --help.
GATES = ("has_learned", "float_conversion", "quantisation", "builtin_operators", "raw_pixels", "limits")


@click.command()
@click.argument("study")
@click.option("--pick", default="knee", show_default=True, help="best, knee, or the id of a point of the front.")
@click.option("--steps", type=click.IntRange(1),
              help="Of the training.  [default: the study's, or until images held out get no better]")  # fmt: skip
@click.option(
    "--most-steps", type=click.IntRange(1), help="Of each training that looks for that.  [default: the study's]"
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8", "mixed"]),
    help="Instead of the study's own. mixed: int8, but float32 for the layers that the device runs faster so.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="GATE",
    type=click.Choice(GATES),
    help=f"Let this gate fail; the manifest says so. May be given again. Gates: {', '.join(GATES)}.",
)
@click.option("--again", is_flag=True, help="Another point after the first: open the test split for it as well.")
@click.option("--no-samples", is_flag=True, help="Put no images into the bundle: the data are private.")
@click.option(
    "--with-float32", is_flag=True, help="Put the float32 model beside an int8 one: ship --precision float32."
)
@click.option("--key", help="The key that signs it.  [default: yours called 'default', if there is one]")
@json_option
def train(
    study: str,
    pick: str,
    steps: int | None,
    most_steps: int | None,
    precision: Any,
    allow: tuple[str, ...],
    again: bool,
    no_samples: bool,
    with_float32: bool,
    key: str | None,
    as_json: bool,
) -> None:
    """Train a point of STUDY's front fully, see it through all gates and write a bundle.

    Where int8 costs more than a point of accuracy the network is fine-tuned for it. The test split is opened once, when
    the gates are passed. Interrupted, the same command goes on from the last whole round of steps.

    \b
    Example: edgenas train shoes --pick knee
    """
    from edgenas.workflow import faster_precision
    from edgenas.workflow import train as train_pick

    signing = _key(key)
    with progress_bars() as progress:
        bundle = train_pick(
            study,
            pick,
            samples=not no_samples,
            steps=steps,
            most_steps=most_steps,
            precision=precision,
            allow=allow,
            key=signing,
            with_float32=with_float32,
            again=again,
            progress=progress,
        )
    faster = faster_precision(bundle)
    if as_json:
        print_json(_answer(bundle, faster))
        return
    print_bundle(bundle)
    if faster is not None:
        stdout.print(_advice(study, bundle, faster), markup=False)


def _advice(study: str, bundle: Any, faster: Any) -> str:
    """That another precision is faster, and what to type."""
    command = f"edgenas train {study} --pick {bundle.manifest.study.candidate} --precision {faster.precision}"
    if faster.latency_interval_ms is not None:
        low, high = faster.latency_interval_ms
        backed = f"({low:.3f} to {high:.3f}) by {faster.table}"
    else:
        backed = f"by {faster.table} and the table of this bundle (no certificate is for two precisions)"
        if bundle.manifest.limits.get("max_latency_ms") is not None:
            command += " --allow limits"
    return (
        f"{faster.precision} is predicted to be faster on this device: {faster.latency_ms:.3f} ms {backed}. "
        f"Try: {command}"
    )


def _answer(bundle: Any, faster: Any) -> dict[str, Any]:
    """What `train --json` says."""
    manifest = bundle.manifest
    accuracy = manifest.accuracy
    return {
        "bundle": str(bundle.folder),
        "id": manifest.architecture.id,
        "precision": manifest.precision,
        "float_layers": manifest.float_layers,
        "test_accuracy": accuracy.test,
        "test_interval": accuracy.test_interval,
        "test_candidates": accuracy.test_candidates,
        "balanced_accuracy": accuracy.balanced,
        "recall": accuracy.recall,
        "float_test_accuracy": accuracy.float_test,
        "float_test_interval": accuracy.float_test_interval,
        "model_bytes": manifest.model_bytes,
        "release": manifest.release,
        "signed_by": bundle.signed_by,
        "gates": [dataclasses.asdict(gate) for gate in manifest.gates],
        "repair": dataclasses.asdict(manifest.repair),
        "faster_precision": None if faster is None else dataclasses.asdict(faster),
    }


def print_bundle(bundle: Any) -> None:
    """What a bundle promises, for people."""
    manifest = bundle.manifest
    accuracy, predicted = manifest.accuracy, manifest.predicted
    low, high = accuracy.test_interval
    float_low, float_high = accuracy.float_test_interval
    pairs = {
        "bundle": bundle.folder,
        "release": f"{manifest.release}, {_signed(bundle)}",
        "network": f"{manifest.architecture.id}, {manifest.precision}{_float_layers(manifest)}",
        "test accuracy": f"{accuracy.test:.2%} (95%: {low:.2%} to {high:.2%}) of the .tflite file, "
        f"{accuracy.float_test:.2%} ({float_low:.2%} to {float_high:.2%}) before conversion"
        + (
            f"; THE TEST SPLIT WAS OPENED FOR {accuracy.test_candidates} POINTS" if accuracy.test_candidates > 1 else ""
        ),
        "recall": ", ".join(
            f"{label} {'-' if share is None else f'{share:.0%}'}" for label, share in accuracy.recall.items()
        ),
    }
    if predicted.latency_ms is not None:
        ends = predicted.latency_interval_ms
        pairs["predicted"] = (
            f"{predicted.latency_ms:.3f} ms{f' ({ends[0]:.3f} to {ends[1]:.3f})' if ends else ''}, "
            f"{predicted.peak_memory_kb:.0f} kB; the file has {manifest.model_bytes / 1024:.0f} kB"
            + (f"; NO PROMISE: {predicted.doubt}" if predicted.doubt else "")
        )
    repair = manifest.repair
    if repair.loss_before is not None and repair.loss_after is not None:
        kept = "fine-tuned for int8" if repair.kind == "fine-tuned" else "fine-tuning did not help and was left"
        pairs["repair"] = (
            f"{kept}: int8 cost {100 * repair.loss_before:.2f} points on the selection images before, "
            f"{100 * repair.loss_after:.2f} after {repair.steps} steps"
        )
    for gate in manifest.gates:
        state = "passed" if gate.passed else "FAILED, ALLOWED"
        pairs[f"gate {gate.name}"] = f"{state}: {gate.detail}"
    print_pairs(pairs)


def _float_layers(manifest: Any) -> str:
    """Which layers of a mixed network are in float32."""
    if not manifest.float_layers:
        return ""
    tokens = manifest.architecture.notation.split()
    return f": float32 for {', '.join(tokens[layer] for layer in manifest.float_layers)}"


def _signed(bundle: Any) -> str:
    return f"signed by the key {bundle.signed_by}" if bundle.signed_by else "not signed"


def _key(name: str | None) -> Any:
    from edgenas.deploy.keys import SigningKey, default_key

    return default_key() if name is None else SigningKey.load(name)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", help="The key that signs it.  [default: yours called 'default', if you have any]")
@click.option("--after", type=click.IntRange(0), default=0, help="A release of a device: the new number is above it.")
@json_option
def sign(bundle: Path, key: str | None, after: int, as_json: bool) -> None:
    """Give BUNDLE a new release number and sign it, in place.

    A device takes a bundle that it had before, and replaced since, only with a new number. Without any key of yours
    the bundle gets that number alone: it is not signed (any more).

    \b
    Example: edgenas sign studies/shoes/bundles/3f2a9c0b1d4e
    """
    from edgenas.deploy.bundle import sign as sign_bundle
    from edgenas.deploy.keys import DEFAULT, SigningKey, key_names

    signing = SigningKey.load(key or DEFAULT) if key or key_names() else None
    signed = sign_bundle(bundle, signing, after)
    if as_json:
        print_json({"bundle": str(bundle), "release": signed.manifest.release, "signed_by": signed.signed_by})
    else:
        how = "" if signing else ": you have no key (to make one: edgenas key create)"
        stdout.print(f"{bundle}: release {signed.manifest.release}, {_signed(signed)}{how}.", markup=False)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--precision", type=click.Choice(["float32", "int8", "mixed"]), help="Which of the bundle's models.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Classes to print for each file.")
@json_option
def predict(bundle: Path, images: tuple[Path, ...], precision: str | None, top: int, as_json: bool) -> None:
    """Say what the model of BUNDLE makes of each FILE: its scores by class.

    Images may be of any size: they are brought to the input as in training.

    \b
    Example: edgenas predict studies/shoes/bundles/3f2a9c0b1d4e one.jpg two.png
    """
    from edgenas.deploy import Bundle
    from edgenas.deploy import predict as predict_files

    found = predict_files(Bundle.load(bundle), images, precision)
    if as_json:
        print_json({"predictions": [dataclasses.asdict(one) | {"label": one.label} for one in found]})
        return
    for one in found:
        said = ", ".join(f"{label} {score:.1%}" for label, score in list(one.scores.items())[:top])
        stdout.print(f"{one.file}: {said}")
