"""edgenas profile, table ..."""

from pathlib import Path
from typing import Any

import click

from edgenas.cli.comparing import character_rows, diff, show_character, show_layer
from edgenas.cli.importing import import_
from edgenas.cli.printing import Shape, json_option, print_json, print_pairs, print_table, progress_bars, stdout
from edgenas.errors import counted

# Of a table's provenance, what `profile --json` repeats.
_COST = (
    "wall_s", "device_busy_s", "conversion_s", "start_s", "sending_s", "devices", "left_out", "adopted", "unsettled",
)  # fmt: skip


@click.command()
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@click.option("--space", type=click.Choice(["tiny", "standard"]), default="tiny", show_default=True)
@click.option("--input", "input_shape", type=Shape(), required=True, help="Of the models, such as 28x28x1.")
@click.option("--precision", type=click.Choice(["float32", "int8"]), default="int8", show_default=True)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--activation", type=click.Choice(["relu", "relu6", "hardswish"]), default="relu6", show_default=True)
@click.option("--classes", type=click.IntRange(2), multiple=True, help="Also for this number (2 to 1000 are covered).")
@click.option("--quick", is_flag=True, help="A first look: fewer whole networks, so a coarser certificate.")
@click.option("--dry-run", is_flag=True, help="Say what would be measured, and stop.")
@json_option
def profile(
    devices: tuple[str, ...],
    space: str,
    input_shape: tuple[int, int, int],
    precision: Any,
    threads: int,
    activation: Any,
    classes: tuple[int, ...],
    quick: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure every layer of a space on DEVICE: a latency table with a certificate.

    Several devices of one kind share the work, and each gets the table. A profile that was cut goes on where it was.

    \b
    Example: edgenas profile pi --space tiny --input 28x28x1 --precision int8 --threads 1
             edgenas profile pi-a pi-b pi-c --space standard --input 160x160x3
    """
    from edgenas.device import Device
    from edgenas.latency.profiling import planning, profiler
    from edgenas.space import MobileSpace

    targets = [Device.load(device) for device in dict.fromkeys(devices)]
    room = MobileSpace(space, input_shape, 10, activation)
    networks = planning.FEWER_NETWORKS if quick else planning.NETWORKS
    plan = planning.plan_profile(room, classes=(*planning.CLASSES, *classes), networks=networks)
    if dry_run:
        name = profiler.table_name(targets[0], room, precision, threads)
        found = {"table": name, "layers": len(plan.layers), "networks": len(plan.networks), "space": f"{room.size:.3g}"}
        print_json(found) if as_json else print_pairs(found)
        return
    with progress_bars() as progress:
        table = profiler.profile(targets, room, precision, threads, plan=plan, progress=progress)
    target = next(target for target in targets if target.name == table.identity.device)
    name = profiler.table_name(target, room, precision, threads)
    result = {
        "table": name,
        "entries": len(table.entries),
        **{key: table.provenance[key] for key in _COST},
        "certificate": table.certificate_summary(),
    }
    print_json(result) if as_json else _print_table_summary(name, table)


@click.group()
def table() -> None:
    """Latency tables: list, show, check, diff, import.

    \b
    Example: edgenas table list
    """


@table.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the latency tables: yours, and those that came with EdgeNAS.

    \b
    Example: edgenas table list
    """
    from edgenas.errors import EdgeNASError
    from edgenas.latency.table import LatencyTable, table_names

    rows: list[dict[str, Any]] = []
    for name in table_names():
        try:
            found = LatencyTable.load(name)
        except EdgeNASError as error:
            rows.append({"table": name, "error": str(error)})
            continue
        identity, certificate = found.identity, found.certificate_summary()
        rows.append(
            {
                "table": name,
                "device": identity.device,
                "runtime": f"{identity.runtime} {identity.runtime_version}",
                "precision": identity.precision,
                "threads": identity.threads,
                "layers": len(found.entries),
                "within_10_percent": certificate["within_10_percent"] if certificate else None,
                "doubt": found.doubt,
            }
        )
    if as_json:
        print_json({"tables": rows})
    elif rows:
        print_table(("table", "runtime", "layers", "within 10%"), [_listed(row) for row in rows])
        for row in rows:
            if said := row.get("error") or row.get("doubt"):
                stdout.print(f"{row['table']}: {said}")
    else:
        stdout.print("No latency table yet. Make one: edgenas profile local --space tiny --input 28x28x1")


def _listed(row: dict[str, Any]) -> tuple[str, ...]:
    """A table in a line of 80 columns; device, input, precision and threads are in its name."""
    if "error" in row:
        return row["table"], "-", "-", "-"
    within = row["within_10_percent"]
    return row["table"], row["runtime"], str(row["layers"]), "-" if within is None else f"{within:.0%} of networks"


@table.command()
@click.argument("name", metavar="TABLE")
@click.option("--layer", help="One layer, in the table's notation: its costs, and the kernels that run for it.")
@click.option("--picture", type=click.Path(path_type=Path), help="Where to draw what each choice costs (TABLE.png).")
@click.option("--no-picture", is_flag=True, help="Draw nothing.")
@json_option
def show(name: str, layer: str | None, picture: Path | None, no_picture: bool, as_json: bool) -> None:
    """Show what a TABLE was measured on, how well it predicts, and what each choice costs on that device.

    \b
    Example: edgenas table show local-tiny-28x28x1-int8-t1
             edgenas table show pi-tiny-28x28x1-int8-t1 --layer mbconv_k7_e3_s1_c16_relu6@28x28x16
    """
    import edgenas.files as files
    from edgenas.latency.table import LatencyTable

    found = LatencyTable.load(name)
    if layer is not None:
        show_layer(found, layer, as_json)
        return
    if as_json:
        identity = files.as_mapping(found.identity)
        print_json({"table": name, "source": found.source, "identity": identity, "entries": len(found.entries),
                    "certificate": found.certificate_summary(), "provenance": found.provenance,
                    "character": character_rows(found)})  # fmt: skip
        return
    _print_table_summary(name, found)
    stdout.print()
    show_character(found, None if no_picture else picture or Path(f"{Path(name).stem}.png"))


@table.command()
@click.argument("name", metavar="TABLE")
@json_option
def check(name: str, as_json: bool) -> None:
    """Measure a sample of TABLE again on its device: does it still hold?

    Exit code 4 where it does not. On a device that is busy all the time what seems stale is not judged.

    \b
    Example: edgenas table check pi-tiny-28x28x1-int8-t1
    """
    import edgenas.files as files
    from edgenas.device import Device
    from edgenas.errors import CheckFailedError
    from edgenas.latency.profiling.checking import check_table
    from edgenas.latency.table import LatencyTable

    found = LatencyTable.load(name)
    with progress_bars() as progress:
        freshness = check_table(Device.load(found.identity.device), found, progress)
    if as_json:
        print_json({"table": name, "fresh": freshness.fresh, "reasons": freshness.reasons,
                    **files.as_mapping(freshness)})  # fmt: skip
    else:
        worst = ", ".join(f"{layer} {share:.2f} times" for layer, share in freshness.worst[:3])
        why = "; ".join(freshness.reasons)
        verdicts = {True: "fresh", None: f"not judged, the device is busy ({freshness.steadiness}): {why}"}
        print_pairs(
            {
                "table": name,
                "verdict": verdicts.get(freshness.fresh, f"STALE: {why}"),
                "speed": f"the reference model takes {freshness.speed:.2f} times what it took",
                "networks": f"{freshness.networks:.3f} times as long beside it, {freshness.in_interval:.0%} within the "
                "90% interval of their prediction",
                "layers": f"nine in ten moved by at most {freshness.layers:.1%}; most: {worst}",
                "changed": "; ".join(freshness.changes) or "nothing that the device says of itself",
            }
        )
    if freshness.fresh is False:
        raise CheckFailedError(f"The table {name} is stale. Profile {found.identity.device} again.")


@table.command()
@click.argument("name", metavar="TABLE")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove TABLE. Studies that rest on it can be looked at, and not gone on with.

    \b
    Example: edgenas table remove pi-tiny-28x28x1-int8-t1
    """
    from edgenas.latency.table import remove_table

    remove_table(name)
    print_json({"removed": name}) if as_json else stdout.print(f"{name} removed.")


def _print_table_summary(name: str, table: Any) -> None:
    identity, certificate = table.identity, table.certificate_summary()
    threads = counted(identity.threads, "thread")
    pairs = {
        "table": name,
        "device": f"{identity.device} ({identity.cpu}; fingerprint {identity.fingerprint})",
        "runtime": f"{identity.runtime} {identity.runtime_version}, {identity.delegate}, {threads}",
        "precision": identity.precision,
        "layers": len(table.entries),
        "source": table.source,
    }
    if "wall_s" in table.provenance:
        pairs["took"] = (
            "{wall_s} s: the device was busy for {device_busy_s} s, conversion took {conversion_s} s, reaching the "
            "device {start_s} s, sending {sending_s} s"
        ).format(**table.provenance)
    if table.provenance.get("disturbed"):
        pairs["steadiness"] = (
            f"disturbed: the device was busy in {table.provenance['disturbed']:.0%} of the batches; the certificate "
            "was measured under the same noise"
        )
    if certificate is not None:
        pairs["certificate"] = _quality(certificate, "networks that took no part")
        if certificate["slow_kernels"]:
            kernels = ", ".join(map(str, certificate["slow_kernels"]))
            pairs["slow here"] = f"depthwise kernels of size {kernels}"
            pairs["without them"] = _quality(certificate["without_slow_kernels"], "of these networks")
        pairs["intervals"] = f"90% lie within a factor of {table.interval_factor(0.9):.3f} of the prediction"
    if table.provenance.get("adopted"):
        pairs["adopted"] = (
            f"{table.provenance['adopted']} layers from {table.provenance['adopted_from']}, which still holds"
        )
    if delegated := table.provenance.get("delegated"):
        shares = (("full", "whole"), ("partial", "in part"), ("none", "not at all"))
        pairs["delegated"] = "layers " + ", ".join(f"{words}: {delegated.get(share, 0)}" for share, words in shares)
    if len(table.provenance.get("devices", [])) > 1:
        pairs["devices"] = f"{', '.join(table.provenance['devices'])} shared the work"
    for left_out, why in table.provenance.get("left_out", {}).items():
        pairs[f"without {left_out}"] = why
    if table.doubt is not None:
        pairs["DOUBT"] = f"{table.doubt}: its predictions are no promise"
    print_pairs(pairs)


def _quality(found: dict[str, Any], what: str) -> str:
    if not found["networks"]:
        return f"0 {what}"
    rank = "" if found["spearman"] is None else f", rank correlation {found['spearman']:.3f}"
    return (
        f"{found['networks']} {what}: {found['within_5_percent']:.0%} within 5%, {found['within_10_percent']:.0%} "
        f"within 10%, mean error {found['mape']:.1%} (repeating a measurement: {found['noise_floor']:.1%}){rank}"
    )


table.add_command(import_)
table.add_command(diff)
