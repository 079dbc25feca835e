"""The front as rows and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgenas.report.pictures import save_figure
from edgenas.strategy import Front, Point


def point_row(point: Point) -> dict[str, Any]:
    """A point as the JSON of the contract."""
    interval = point.known_interval_ms
    return {
        "id": point.id,
        "name": point.name,
        "notation": point.notation,
        "accuracy": round(point.accuracy, 5),
        "accuracy_interval": None
        if point.accuracy_interval is None
        else [round(end, 5) for end in point.accuracy_interval],
        "latency_ms": round(point.latency_ms, 4),
        "latency_interval_ms": None if interval is None else [round(end, 4) for end in interval],
        "arena_kb": round(point.arena_kb, 1),
        "model_kb": round(point.model_kb, 1),
        "peak_memory_kb": round(point.peak_memory_kb, 1),
    }


def front_rows(front: Front) -> list[dict[str, Any]]:
    """All points of a front, by latency."""
    return [point_row(point) for point in front]


def draw_front(front: Front, points: Sequence[Point], title: str, path: Path, limit_ms: float | None = None) -> None:
    """Draw accuracy against latency to a .png or .svg: every candidate, the front, its intervals and the limit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), dpi=160, layout="constrained")
    axes = figure.subplots()
    for kind, marker, colour, words in (
        (False, "o", "#b8c4ce", "candidate (area: peak memory)"),
        (True, "s", "#e0b25c", "drawn by hand"),
    ):
        shown = [point for point in points if (point.name is not None) is kind]
        if shown:
            axes.scatter(
                [point.latency_ms for point in shown],
                [point.accuracy * 100 for point in shown],
                s=[12 + point.peak_memory_kb / 8 for point in shown],
                color=colour,
                marker=marker,
                label=words,
            )
    upper = _upper_edge(front)
    axes.step(
        [point.latency_ms for point in upper],
        [point.accuracy * 100 for point in upper],
        where="post",
        color="#0b6e99",
        linewidth=1.2,
    )
    axes.errorbar(
        [point.latency_ms for point in front],
        [point.accuracy * 100 for point in front],
        xerr=[
            [point.latency_ms - point.latency_interval_ms[0] for point in front],
            [point.latency_interval_ms[1] - point.latency_ms for point in front],
        ],
        yerr=[_reach(front, 0), _reach(front, 1)],
        fmt="o",
        markersize=4,
        color="#0b6e99",
        ecolor="#7fb3c8",
        label="Pareto front, with its intervals",
    )
    _mark_picks(axes, front)
    if limit_ms is not None:
        axes.axvline(limit_ms, color="#c0392b", linestyle="--", linewidth=1, label=f"limit {limit_ms:g} ms")
    axes.set_xlabel("predicted latency, ms")
    axes.set_ylabel("accuracy after a short training, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)


def _reach(front: Front, end: int) -> list[float]:
    """How far the interval of each accuracy goes down (end 0) or up (1), points."""
    ends = [point.accuracy_interval or (point.accuracy, point.accuracy) for point in front]
    return [100 * abs(both[end] - point.accuracy) for both, point in zip(ends, front, strict=True)]


def _mark_picks(axes: Any, front: Front) -> None:
    """Ring the points that `--pick best` and `--pick knee` take."""
    picked: dict[str, tuple[Point, list[str]]] = {}
    for which in ("best", "knee") if len(front) else ():
        point = front.pick(which)
        picked.setdefault(point.id, (point, []))[1].append(which)
    for point, names in picked.values():
        place = point.latency_ms, point.accuracy * 100
        axes.plot(*place, "o", markersize=10, markerfacecolor="none", markeredgecolor="#d35400")
        above = 9 if "best" in names else -16  # best and knee are often neighbours
        style = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": "#d35400"}
        axes.annotate(" and ".join(names), place, xytext=(0, above), **style)
    axes.margins(y=0.12)


def _upper_edge(front: Front) -> list[Point]:
    """The points that are best in accuracy and latency alone, memory left aside."""
    edge: list[Point] = []
    for point in front:
        if not edge or point.accuracy > edge[-1].accuracy:
            edge.append(point)
    return edge
