"""edgenas table import."""

from pathlib import Path

import click

from edgenas.cli.printing import json_option, print_json, print_pairs, stdout


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="The device that the times are from.")
@click.option("--precision", type=click.Choice(["float32", "int8"]), required=True, help="Of the models measured.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of one inference.")
@click.option(
    "--runtime",
    type=click.Choice(["ai-edge-litert", "tflite-runtime"]),
    default="ai-edge-litert",
    show_default=True,
    help="That ran them.",
)
@click.option("--as", "name", metavar="TABLE", help="Name to save it under.  [default: the file's]")
@click.option("--dry-run", is_flag=True, help="Say what would be imported, and stop.")
@json_option
def import_(
    file: Path, device: str, precision: str, threads: int, runtime: str, name: str | None, dry_run: bool, as_json: bool
) -> None:
    """Import a latency table made elsewhere: once-for-all's or ProxylessNAS' YAML, or a CSV (layer, ms).

    What is no layer of EdgeNAS is listed with the reason; nothing is guessed. The options say what the file does not.
    Nobody has checked what such a table predicts: it has no certificate, and says so.

    \b
    Example: edgenas table import 160_lookup_table.yaml --device note10 --precision float32
    """
    from edgenas.errors import InputError
    from edgenas.latency.table import imports

    imported = imports.read_table(file, imports.stated_identity(device, precision, threads, runtime))
    name = imports.check_new(file.stem if name is None else name)
    entries, unmapped = imported.table.entries, imported.unmapped
    if not dry_run and not entries:
        key, why = unmapped[0]
        raise InputError(
            f"Nothing of {file} is a layer of EdgeNAS (the first of {len(unmapped)}: {key}: {why}), so no table is "
            "saved. --dry-run lists them all."
        )
    saved = None if dry_run else str(imports.save(imported, name))
    if as_json:
        listed = [{"key": key, "reason": reason} for key, reason in unmapped]
        print_json({"table": name, "saved": saved, "format": imported.format, "entries": len(entries),
                    "unmapped": listed, "certificate": None, "doubt": imported.table.doubt})  # fmt: skip
        return
    print_pairs(
        {
            "table": name,
            "saved": saved or "no: a dry run",
            "format": imported.format,
            "layers": f"{len(entries)} of {len(entries) + len(unmapped)}",
            "certificate": "none",
            "DOUBT": f"{imported.table.doubt}: its predictions are no promise",
        }
    )
    _print_unmapped(unmapped)


def _print_unmapped(unmapped: tuple[tuple[str, str], ...]) -> None:
    """Keys under the reason that they share: a file has dozens of keys and a handful of reasons."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in unmapped:
        by_reason.setdefault(reason, []).append(key)
    for reason, keys in by_reason.items():
        stdout.print(f"\nnot imported ({len(keys)}): {reason}", markup=False)
        for key in keys:
            stdout.print(f"  {key}", markup=False)
