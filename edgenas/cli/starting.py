"""edgenas quickstart."""

import contextlib
import dataclasses
from pathlib import Path

import click

from edgenas.cli.models import print_bundle
from edgenas.cli.printing import json_option, print_json, progress_bars, stderr, stdout
from edgenas.cli.searching import print_front, trial_line
from edgenas.cli.shipping import print_shipped


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("quickstart"), show_default=True,
              help="The project's folder; made if it is not there.")  # fmt: skip
@json_option
def quickstart(folder: Path, as_json: bool) -> None:
    """Go through the whole job on this machine: profile, search, train, ship. Minutes; the same command goes on.

    \b
    Example: edgenas quickstart
    """
    from edgenas.report import front_rows
    from edgenas.workflow import quickstart as go_through

    console = stderr if as_json else stdout
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder), progress_bars() as progress:
        told = go_through(
            lambda line: console.print(line, markup=False),
            progress,
            lambda report: console.print(f"    {trial_line(report)}", markup=False),
        )
    if as_json:
        print_json({"data": told.data, "certificate": told.table.certificate_summary(), "front": front_rows(told.front),
                    "bundle": str(folder / told.bundle.folder), "test_accuracy": told.bundle.manifest.accuracy.test,
                    "latency_ms": told.shipped.latency_ms, "predicted_ms": told.shipped.predicted_ms,
                    "promise_kept": told.shipped.promise_kept})  # fmt: skip
        return
    stdout.print()
    if told.table.doubt is not None:
        stdout.print(f"NO PROMISE: {told.table.doubt}", markup=False)
    print_front(told.front, folder / told.picture)
    stdout.print()
    print_bundle(dataclasses.replace(told.bundle, folder=folder / told.bundle.folder))
    stdout.print()
    print_shipped(told.shipped)
