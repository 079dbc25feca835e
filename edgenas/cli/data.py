"""edgenas data: what looks wrong with labelled images, before any device is involved."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from edgenas.cli.printing import (
    Shape,
    duration,
    json_option,
    print_json,
    print_pairs,
    print_table,
    progress_bars,
    stderr,
    stdout,
)
from edgenas.errors import CheckFailedError, InputError


@click.group()
def data() -> None:
    """Labelled images."""


@data.command()
@click.argument("source", metavar="DATA")
@click.option("--input", "input_shape", type=Shape(), default="96x96x3", show_default=True, help="Of the models.")
@click.option("--policy", type=click.Choice(["fit", "crop", "pad"]), default="pad", show_default=True,
              help="How an image of another size is brought to the input.")  # fmt: skip
@click.option("--group-pattern", help="Regular expression on paths; its first group stays in one split.")
@click.option("--sheet", type=click.Path(path_type=Path), default=Path("samples.png"), show_default=True,
              help="Where samples are drawn as a network will see them.")  # fmt: skip
@click.option("--no-pace", is_flag=True, help="Do not try how long a trial takes on this machine.")
@json_option
def check(
    source: str,
    input_shape: Any,
    policy: Any,
    group_pattern: str | None,
    sheet: Path,
    no_pace: bool,
    as_json: bool,
) -> None:
    """Look at DATA as a search would: classes, splits, samples as a picture, and what looks wrong.

    No device and no table is needed. Ends with exit code 4 where something makes the data useless. Says how long a
    trial of a search takes on this machine: a few steps of a training are tried.

    \b
    Example: edgenas data check ./images --input 64x64x3
    """
    from edgenas.evaluation.data.check import check_data
    from edgenas.report.samples import draw_samples

    with progress_bars() as bars:
        found = check_data(
            source, input_shape, policy, group_pattern=group_pattern,
            progress=lambda done, total: bars("reading images", done, total),
        )  # fmt: skip
    if found.dataset is not None:
        draw_samples(found.dataset, sheet)
    trial = None if no_pace or found.splits is None else _trial(found)
    if as_json:
        print_json(_answer(found, sheet) | {"trial": trial})
    else:
        _show(found, sheet, trial)
    problems = [finding.what for finding in found.findings if finding.level == "problem"]
    if problems:
        more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
        raise CheckFailedError(f"{source}: {problems[0]}.{more}")


def _trial(found: Any) -> dict[str, Any] | None:
    """How many steps a trial of a search takes, and how long; None where no space has networks for such images."""
    from edgenas.evaluation.pace import pace
    from edgenas.evaluation.recipe import Recipe
    from edgenas.strategy.fidelity import RUNGS

    try:
        known = pace(found.dataset, found.splits, Recipe())
    except InputError as error:
        stderr.print(str(error))
        return None
    return {
        "batch_size": known.batch_size,
        "folds": known.folds,
        "steps": [RUNGS[0], RUNGS[-1]],
        "seconds": [round(known.trial_s(steps), 1) for steps in (RUNGS[0], RUNGS[-1])],
    }


def _answer(found: Any, sheet: Path) -> dict[str, Any]:
    usable = found.dataset is not None
    return {
        "classes": found.counts(),
        "splits": found.splits.sizes() if usable else None,
        "left_out": [{"file": path, "why": why} for path, why in found.dataset.left_out] if usable else [],
        "findings": [dataclasses.asdict(finding) for finding in found.findings],
        "sheet": str(sheet) if usable else None,
    }


def _show(found: Any, sheet: Path, trial: dict[str, Any] | None) -> None:
    if found.dataset is not None:
        print_table(("class", "images"), list(found.counts().items()))
        stdout.print()
        sizes = ", ".join(f"{name} {count}" for name, count in found.splits.sizes().items() if count)
        if found.splits.folds:
            sizes += f"; {len(found.splits.folds)} folds of train stand in for validation"
        pairs = {"splits": sizes, "samples": sheet}
        if trial is not None:
            (few, many), (low_s, high_s) = trial["steps"], trial["seconds"]
            folds = f" in each of {trial['folds']} folds" if trial["folds"] > 1 else ""
            pairs["a trial"] = (
                f"{few} to {many} steps of {trial['batch_size']} images{folds}: {duration(low_s)} to "
                f"{duration(high_s)} for a large network on this machine"
            )
        print_pairs(pairs)
    for finding in found.findings:
        stdout.print(f"{finding.level}: {finding.what}. {finding.remedy}")
    if not found.findings:
        stdout.print("Nothing looks wrong.")
