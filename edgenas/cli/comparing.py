"""edgenas table diff, and what `edgenas table show` says of a device's character and of one layer."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgenas.cli.printing import json_option, print_json, print_pairs, print_table, stdout

if TYPE_CHECKING:
    from edgenas.latency.comparing.character import Effect
    from edgenas.latency.comparing.comparing import Contrast, Difference
    from edgenas.latency.table import LatencyTable


@click.command("diff")
@click.argument("first", metavar="TABLE")
@click.argument("second", metavar="TABLE")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Where to draw it, .png or .svg.")
@click.option("--no-picture", is_flag=True, help="Draw nothing.")
@json_option
def diff(first: str, second: str, picture: Path | None, no_picture: bool, as_json: bool) -> None:
    """Set two TABLEs side by side: how far costs shift, whose rank changes, which choices flip.

    Two devices, runtimes, precisions, firmware versions or activations. The picture is FIRST-against-SECOND.png in the
    current folder where nothing else is said.

    \b
    Example: edgenas table diff pi-tiny-28x28x1-int8-t1 pi-tiny-28x28x1-float32-t1
    """
    from edgenas.latency.comparing.comparing import compare
    from edgenas.latency.comparing.findings import sentences
    from edgenas.latency.comparing.related import related_sentences
    from edgenas.latency.table import LatencyTable

    tables = LatencyTable.load(first), LatencyTable.load(second)
    found = compare(*tables)
    drawn = None if no_picture else picture or Path(f"{_stem(first)}-against-{_stem(second)}.png")
    if drawn is not None:
        from edgenas.report.tables import draw_difference

        draw_difference(found, drawn)
    said = sentences(found)
    more = related_sentences(*tables, _readable_tables())
    if as_json:
        print_json({"first": first, "second": second, **_plain(found), "findings": said, "related": more,
                    "picture": None if drawn is None else str(drawn)})  # fmt: skip
        return
    _print_difference(found, said)
    if more:
        stdout.print("\nWhat other tables of these devices add", style="bold")
        for sentence in more:
            stdout.print(f"  - {sentence}", markup=False)
    if drawn is not None:
        stdout.print(f"\nThe picture: {drawn}", markup=False)


def _readable_tables() -> "Iterator[LatencyTable]":
    from edgenas.errors import EdgeNASError
    from edgenas.latency.table import LatencyTable, table_names

    for name in table_names():
        with contextlib.suppress(EdgeNASError):
            yield LatencyTable.load(name)


def _stem(name: str) -> str:
    """A table's name, of its path too."""
    return Path(name).name.removesuffix(".json")


def show_character(table: "LatencyTable", picture: Path | None) -> None:
    """Print how each choice changes a block's cost on a table's device, and draw it where a path is given."""
    from edgenas.latency.comparing.character import character
    from edgenas.latency.comparing.findings import times

    found = character(table)
    if not found.effects:
        stdout.print("\nIts layers tell nothing of how a choice changes a block's cost: no two differ in one alone.")
        return
    heads = ("what a choice costs", "step", "cost", "half of the pairs", "by MACs", "pairs")
    rows = [
        (effect.choice, f"{effect.first} to {effect.second}", times(effect.cost.median),
         f"{times(effect.cost.low)} to {times(effect.cost.high)}", times(effect.macs), effect.cost.cases)
        for effect in found.effects
    ]  # fmt: skip
    stdout.print()
    print_table(heads, rows)
    _print_legend(found.effects, found.unresolved)
    if picture is not None:
        from edgenas.report.tables import draw_character

        draw_character(table, picture)
        stdout.print(f"The picture: {picture}", markup=False)


def character_rows(table: "LatencyTable") -> list[dict[str, Any]]:
    """The same for --json."""
    from edgenas.latency.comparing.character import character

    return [dataclasses.asdict(effect) for effect in character(table).effects]


def show_layer(table: "LatencyTable", text: str, as_json: bool = False) -> None:
    """Print what a table holds of a layer, and the kernels that run in it where its device can tell.

    Raises:
        InputError: the table holds no such layer.
    """
    from edgenas.device import Device
    from edgenas.errors import InputError
    from edgenas.latency.profiling.explaining import describe_layer, explain_layer, find_layer

    layer = find_layer(table, text)
    try:
        found = explain_layer(Device.load(table.identity.device), table, layer)
    except InputError as error:  # a table of somebody else's device
        found = describe_layer(table, layer) | {"notes": [f"The kernels that run in it are not known: {error}"]}
    print_json(found) if as_json else _print_layer(found)


def _alone(found: dict[str, Any]) -> str:
    text = f"{found['us']:g} us"
    if found["half_width"] is not None:
        text += f", known to {found['half_width']:.1%}"
    return text if found["cold_us"] is None else f"{text}; {found['cold_us']:g} us when others have had the caches"


def _print_layer(found: dict[str, Any]) -> None:
    print_pairs(
        {
            "layer": found["layer"],
            "alone": _alone(found),
            "in a network": f"{found['cost_us']:g} us, after calibration",
            "size": f"{found['macs']:,} MACs, {found['parameters']:,} parameters",
        }
    )
    if "kernels" in found:
        print_kernels(found["kernels"], found["total_us"])
    for note in found["notes"]:
        stdout.print(f"Note: {note}", markup=False)


def print_kernels(kernels: list[dict[str, Any]], total_us: float) -> None:
    """What ran, how often and how long."""
    stdout.print()
    rows = [(kernel["name"], kernel["kind"], kernel["count"], f"{kernel['us']:.1f}") for kernel in kernels]
    print_table(("kernel", "kind", "calls", "us"), [*rows, ("together", "", "", f"{total_us:.1f}")])


def _print_difference(found: "Difference", said: tuple[str, ...]) -> None:
    from edgenas.latency.comparing.findings import times

    naming, shift = found.naming, found.shift
    only = f", {len(found.only_first)} only in the first table, {len(found.only_second)} only in the second"
    differs = [f"{name}: {first or 'unknown'} | {second or 'unknown'}" for name, first, second in naming.differs]
    middle = f"median {times(shift.ratio.median)}, half of them {times(shift.ratio.low)} to {times(shift.ratio.high)}"
    print_pairs(
        {
            "first": naming.first,
            "second": naming.second,
            "both": naming.shared or "nothing",
            "differs": "; ".join(differs) or "nothing in what the tables say of themselves",
            "layers": f"{len(found.costs)} in common{only if found.only_first or found.only_second else ''}",
            "shift": f"second over first: geometric mean {times(shift.mean)}, {middle}",
            "order": "one layer" if found.spearman != found.spearman else f"rank correlation {found.spearman:.3f}",
        }
    )
    stdout.print("\nWhat stands out" if said else "\nNothing stands out.", style="bold")
    for number, sentence in enumerate(said, start=1):
        stdout.print(f"{number:2}. {sentence}", markup=False)
    if found.contrasts:
        _print_contrasts(found)
    if found.moved:
        rows = [
            (moved.layer, f"{moved.first_us:.1f} | {moved.second_us:.1f}", f"{moved.first_rank} | {moved.second_rank}")
            for moved in found.moved
        ]
        stdout.print()
        print_table(("layers whose rank changed most", "us, first | second", "rank"), rows)


def _print_contrasts(found: "Difference") -> None:
    from edgenas.latency.comparing.findings import times

    def row(contrast: "Contrast") -> tuple[Any, ...]:
        first, second = contrast.first, contrast.second
        return (first.choice, f"{first.first} to {first.second}", times(first.cost.median), times(second.cost.median),
                times(first.macs), first.cost.cases, contrast.flip or "")  # fmt: skip

    stdout.print()
    heads = ("what a choice costs", "step", "first", "second", "by MACs", "pairs", "flips")
    print_table(heads, [row(contrast) for contrast in found.contrasts])
    _print_legend([contrast.first for contrast in found.contrasts], found.unresolved)


def _print_legend(effects: "Sequence[Effect]", unresolved: int) -> None:
    """How to read the table of choices."""
    words = ["Pairs of blocks that differ in that choice alone; medians."]
    if any(effect.choice == "channels" for effect in effects):
        words.append("c to 2c: twice the channels in and out.")
    if unresolved:
        words.append(f"{unresolved} layers that cost less than an empty model are left out.")
    stdout.print(" ".join(words), markup=False)


def _plain(found: "Difference") -> dict[str, Any]:
    """A difference for --json."""
    naming = found.naming
    return {
        "names": [naming.first, naming.second],
        "shared": naming.shared,
        "differs": [{"field": name, "first": one, "second": other} for name, one, other in naming.differs],
        "layers": {
            "common": len(found.costs),
            "only_first": list(map(str, found.only_first)),
            "only_second": list(map(str, found.only_second)),
            "unresolved": found.unresolved,
        },
        "shift": dataclasses.asdict(found.shift),
        "spearman": None if found.spearman != found.spearman else found.spearman,
        "moved": [dataclasses.asdict(moved) | {"layer": str(moved.layer)} for moved in found.moved],
        "choices": [dataclasses.asdict(contrast) for contrast in found.contrasts],
        "groups": [dataclasses.asdict(group) for group in found.groups],
    }
