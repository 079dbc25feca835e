"""A study as one HTML page that needs nothing else."""

import base64
import html
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgenas.files as files
from edgenas.deploy.manifest import FILE, Manifest, read_manifest
from edgenas.errors import EdgeNASError
from edgenas.ledger import Ledger
from edgenas.report.curves import curves_folder
from edgenas.report.front import draw_front, front_rows
from edgenas.report.mistakes import mistakes_folder
from edgenas.strategy import Front, Point, Settings

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:1.5rem auto;padding:0 1rem;color:#1c2b36}
h1{overflow-wrap:anywhere}.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .6rem;border-bottom:1px solid #d8e0e6;text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}table.words td{white-space:normal;text-align:left;overflow-wrap:anywhere}
table.words td:first-child{overflow-wrap:normal;min-width:6em;width:8em;vertical-align:top}
code{font-size:12px;overflow-wrap:anywhere}img{max-width:100%}summary{cursor:pointer;color:#0b6e99}
.bad{color:#c0392b}"""
_HEADS = ("id", "accuracy", "latency ms", "interval ms", "arena kB", "model kB", "peak memory kB")
# Of the settings, what only says that data and table are the same: folded away.
_HASHES = ("data identity", "table checksum")


def write_page(
    settings: Settings, front: Front, points: Sequence[Point], counts: Mapping[str, Any], backing: str, path: Path
) -> None:
    """Write the page of a study: its front, what became of it (test result, gates, devices), and what it was asked."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "front.svg"
        draw_front(front, points, f"{settings.study} on {settings.device}", picture, settings.limits.max_latency_ms)
        image = base64.b64encode(picture.read_bytes()).decode()
    marks = {front.pick(which).id: which for which in ("best", "knee")} if len(front) else {}
    rows = [_front_row(row, marks) for row in front_rows(front)]
    study = path.parent if (path.parent / "study.toml").is_file() else Path("studies") / settings.study
    asked = dict(_flat(files.as_mapping(settings)))
    hashes = [(name, asked.pop(name)) for name in _HASHES if name in asked]
    networks = "".join(
        f"<p><b>{row['id']}</b> <code>{html.escape(row['notation'])}</code></p>" for row in front_rows(front)
    )
    files.write_atomically(
        path,
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{html.escape(settings.study)}</title><style>{_STYLE}</style><h1>{html.escape(settings.study)}</h1>"
        f"<p>Accuracy is the study's {settings.metric} on images held out, after the search's short training; "
        f"latency and memory are predicted. {html.escape(backing)}</p>"
        f'<img alt="The front: accuracy against latency" src="data:image/svg+xml;base64,{image}">'
        f"{_table(rows, _HEADS)}{_trained(study)}{_shipped(study)}"
        f"<h2>What it cost</h2>{_table(counts.items(), words=True)}"
        f"<h2>What was asked</h2>{_table(asked.items(), words=True)}"
        f"<details><summary>Data and table, by their hashes</summary>{_table(hashes, words=True)}</details>"
        f"<details><summary>The networks of the front</summary>{networks}</details></html>\n",
    )


def _front_row(row: Mapping[str, Any], marks: Mapping[str, str]) -> tuple[str, ...]:
    interval = row["latency_interval_ms"]
    said = ", ".join(filter(None, [marks.get(row["id"]), row["name"]]))
    return (
        f"{row['id']} ({said})" if said else row["id"],
        f"{row['accuracy']:.1%}" + _give_or_take(row["accuracy_interval"]),
        f"{row['latency_ms']:.3f}",
        "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        f"{row['arena_kb']:.0f}",
        f"{row['model_kb']:.0f}",
        f"{row['peak_memory_kb']:.0f}",
    )


def _give_or_take(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.1%} to {interval[1]:.1%})"


def _trained(study: Path) -> str:
    """What the networks that were trained fully came to: the test result, and each gate."""
    text = ""
    for folder in sorted((study / "bundles").glob("*/")):
        try:
            manifest = read_manifest(folder / FILE)
        except (EdgeNASError, OSError):
            continue  # not written yet, or somebody's hand was in it: `edgenas ship` says so
        text += f"<h3>{html.escape(manifest.architecture.id)}, {html.escape(manifest.precision)}</h3>"
        text += _table(_results(manifest), words=True) + _pictures(study, folder.name)
    return f"<h2>Trained fully</h2>{text}" if text else ""


def _pictures(study: Path, bundle: str) -> str:
    """How a network was trained and what it gets wrong, where that is there."""
    training, mistakes = curves_folder(study, bundle), mistakes_folder(study, bundle)
    advice = training / "advice.txt"
    said = advice.read_text(encoding="utf-8").strip() if advice.is_file() else ""
    text = f"<p>{html.escape(said)}</p>" if said else ""
    for path, words in (
        (training / "curves.png", "How it was trained"),
        (mistakes / "confusion.png", "Test images by true class and by the class that was named"),
        (mistakes / "mistakes.png", "The mistakes that the network was surest of"),
    ):
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            text += f'<p>{words}:</p><img alt="{words}" src="data:image/png;base64,{data}">'
    return text


def _results(manifest: Manifest) -> Iterable[tuple[str, str]]:
    accuracy = manifest.accuracy
    low, high = accuracy.test_interval
    yield "test accuracy", f"{accuracy.test:.2%} (95%: {low:.2%} to {high:.2%}) of the .tflite file"
    yield "release", str(manifest.release)
    for gate in manifest.gates:
        yield f"gate: {gate.name.replace('_', ' ')}", f"{'passed' if gate.passed else 'FAILED, ALLOWED'}: {gate.detail}"


def _shipped(study: Path) -> str:
    """What was put live from here, by the study's ledger: the last of each name on each device."""
    entries = Ledger(study / "ledger.jsonl").entries("shipped")
    last = {(entry.get("device"), entry.get("name")): entry for entry in entries}
    rows = [
        (str(device), str(name), str(entry.get("release")), str(entry.get("candidate")), str(entry.get("time"))[:16])
        for (device, name), entry in sorted(last.items(), key=str)
    ]
    return f"<h2>Put live from here</h2>{_table(rows, ('device', 'name', 'release', 'network', 'at'))}" if rows else ""


def _table(rows: Iterable[Iterable[Any]], heads: Sequence[str] = (), words: bool = False) -> str:
    """An HTML table that scrolls by itself where it is wider than the page."""
    head = f"<tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>" if heads else ""
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table{' class=words' if words else ''}>{head}{body}</table></div>"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield (prefix + name).replace("_", " "), value
