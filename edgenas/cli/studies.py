"""edgenas study: the searches of this project."""

from typing import Any

import click

from edgenas.cli.printing import each, json_option, print_json, print_pairs, print_table, refuse_unreadable, stdout


@click.group()
def study() -> None:
    """Searches: what was asked, how far they are, what they found."""


@study.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the studies of this project.

    \b
    Example: edgenas study list
    """
    from edgenas.strategy import StoredStudy, load_settings, study_names

    def row_of(name: str) -> dict[str, Any]:
        settings, found = load_settings(name), StoredStudy(name)
        front, done = found.front, found.counts()["complete"]
        best = front.pick("best") if len(front) else None
        return {
            "study": name, "data": settings.data, "device": settings.device, "precision": settings.precision,
            "trials": done, "of": settings.trials, "best_accuracy": best and best.accuracy,
            "best_latency_ms": best and best.latency_ms,
        }  # fmt: skip

    rows, bad = each(study_names(), row_of)
    if as_json:
        print_json({"studies": rows, "unreadable": bad})
    elif rows or not bad:
        print_studies(rows)
    refuse_unreadable(bad)


def print_studies(rows: list[dict[str, Any]]) -> None:
    """A line a study, for people."""
    if not rows:
        stdout.print("There is no study here yet. One begins with: edgenas search")
    else:
        heads = ("study", "data", "device", "trials", "best", "ms")
        print_table(heads, [
            (row["study"], row["data"], row["device"], f"{row['trials']}/{row['of']}",
             "-" if row["best_accuracy"] is None else f"{row['best_accuracy']:.1%}",
             "-" if row["best_latency_ms"] is None else f"{row['best_latency_ms']:.3f}")
            for row in rows
        ])  # fmt: skip


@study.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what NAME was asked, how far it is, and its bundles.

    \b
    Example: edgenas study show shoes
    """
    import edgenas.files as files
    from edgenas.strategy import StoredStudy, load_settings

    settings, found = load_settings(name), StoredStudy(name)
    bundles = sorted(str(path) for path in (found.folder / "bundles").glob("*") if path.is_dir())
    answer: dict[str, Any] = {
        "settings": files.as_mapping(settings),
        "counts": found.counts(),
        "front": [point.id for point in found.front],
        "bundles": bundles,
    }
    if as_json:
        print_json(answer)
        return
    counts = answer["counts"]
    limits = {key: value for key, value in answer["settings"]["limits"].items() if value is not None}
    print_pairs({
        "data": settings.data, "device": settings.device, "table": settings.table, "space": settings.space,
        "precision": settings.precision, "limits": ", ".join(f"{key} {value:g}" for key, value in limits.items()),
        "trials": f"{counts['complete']} of {settings.trials}, {counts['failed']} failed",
        "front": f"{len(answer['front'])} networks: edgenas pareto {name}",
        "bundles": ", ".join(bundles) or f"none yet: edgenas train {name}",
        "folder": found.folder,
    })  # fmt: skip


@study.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@json_option
def remove(name: str, dry_run: bool, as_json: bool) -> None:
    """Remove NAME with all that it found, its bundles among it. What was shipped stays on the devices.

    \b
    Example: edgenas study remove shoes --dry-run
    """
    from edgenas.strategy import remove_study, study_folder

    folder = study_folder(name)
    bundles = sorted(path.name for path in (folder / "bundles").glob("*") if path.is_dir())
    size_bytes = remove_study(name, dry_run)
    if as_json:
        print_json({"removed": name, "bundles": bundles, "size_bytes": size_bytes, "dry_run": dry_run})
        return
    what = f"{folder}, {size_bytes / 1e6:.1f} MB, with {len(bundles)} bundle{'' if len(bundles) == 1 else 's'}"
    stdout.print(f"Would remove {what}." if dry_run else f"Removed {what}.")
