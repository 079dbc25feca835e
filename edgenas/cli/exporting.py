"""edgenas export."""

from pathlib import Path

import click

from edgenas.cli.printing import json_option, print_json, print_pairs


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--format", "form", metavar="[android|c-array]", required=True, help="What it is for.")
@click.option("--as", "name", metavar="NAME", help="The model's name there.  [default: the study's]")
@json_option
def export(bundle: Path, folder: Path, form: str, name: str | None, as_json: bool) -> None:
    """Write BUNDLE's model into the new folder DIR for another tool.

    android: a folder `assets` to copy into an app; examples/android loads it. c-array: C++ source for TensorFlow Lite
    Micro, with the size of the arena and the operators it needs.

    \b
    Example: edgenas export studies/shoes/bundles/3f2a9c0b1d4e --format android shoes-android
    """
    from edgenas.deploy import Bundle
    from edgenas.deploy.exporting import export as write

    done = write(Bundle.load(bundle), form, folder, name)
    metadata = done.metadata
    if as_json:
        labels = None if metadata is None else len(metadata.labels)
        arena = {"arena_bytes": done.arena_bytes, "arena_predicted_bytes": done.arena_predicted_bytes}
        print_json({"bundle": str(bundle), "folder": str(done.folder), "format": done.format, "name": done.name,
                    "files": done.files, "labels_in_model": labels, **arena, "operators": done.operators})  # fmt: skip
        return
    says = "nothing: other tools will ask for labels and normalisation"
    if metadata is not None:
        pixels = f"mean {metadata.mean:g}, std {metadata.std:g}"
        says = f"{len(metadata.labels)} labels; a {metadata.colour} image, {pixels}"
    pairs = {"written": done.folder, "files": ", ".join(done.files), "model says": says}
    if done.arena_bytes is not None:
        pairs["arena"] = f"{done.arena_bytes:,} bytes ({done.arena_predicted_bytes:,} predicted, and a margin)"
        pairs["operators"] = ", ".join(done.operators)
    print_pairs(pairs)
