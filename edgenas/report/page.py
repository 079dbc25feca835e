"""A study as one HTML page that needs nothing else."""

import base64
import html
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import edgenas.files as files
from edgenas.report.front import draw_front, front_rows
from edgenas.strategy import Front, Point, Settings

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2b36}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;border-bottom:1px solid #d8e0e6;text-align:right}
td:first-child,th:first-child{text-align:left}code{font-size:12px;overflow-wrap:anywhere}img{max-width:100%}"""


def write_page(
    settings: Settings, front: Front, points: Sequence[Point], counts: Mapping[str, Any], backing: str, path: Path
) -> None:
    """Write the page of a study: its question, its front as picture and table, what backs it, and what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "front.svg"
        draw_front(front, points, f"{settings.study} on {settings.device}", picture, settings.limits.max_latency_ms)
        image = base64.b64encode(picture.read_bytes()).decode()
    heads = ("id", "accuracy", "latency ms", "interval ms", "arena kB", "model kB", "peak memory kB")
    rows = "".join(_row(row) for row in front_rows(front))
    asked = _definitions(files.as_mapping(settings))
    networks = "".join(
        f"<p><b>{row['id']}</b> <code>{html.escape(row['notation'])}</code></p>" for row in front_rows(front)
    )
    cost = ", ".join(f"{html.escape(str(name))}: {html.escape(str(value))}" for name, value in counts.items())
    files.write_atomically(
        path,
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(settings.study)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(settings.study)}</h1>"
        f"<p>Accuracy is the study's {settings.metric} on its validation split, after the search's short training; "
        f"latency and memory are predicted. {html.escape(backing)}</p>"
        f'<img alt="The front: accuracy against latency" src="data:image/svg+xml;base64,{image}">'
        f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table>"
        f"<h2>What it cost</h2><p>{cost}</p><h2>What was asked</h2><table>{asked}</table>"
        f"<h2>The networks</h2>{networks}</html>\n",
    )


def _row(row: Mapping[str, Any]) -> str:
    interval = row["latency_interval_ms"]
    cells = (
        row["id"],
        f"{row['accuracy']:.1%}",
        f"{row['latency_ms']:.3f}",
        "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        f"{row['arena_kb']:.0f}",
        f"{row['model_kb']:.0f}",
        f"{row['peak_memory_kb']:.0f}",
    )
    return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _definitions(mapping: Mapping[str, Any], prefix: str = "") -> str:
    text = ""
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            text += _definitions(value, f"{prefix}{name}.")
        elif value is not None:
            text += f"<tr><td>{html.escape(prefix + name)}</td><td>{html.escape(str(value))}</td></tr>"
    return text
