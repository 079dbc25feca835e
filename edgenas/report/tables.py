"""Latency tables as pictures: the character of one device, and two devices side by side.

Colours are those of Okabe and Ito (2008), which the colour-blind tell apart; shapes say the same a second time.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from edgenas.architecture import Layer
from edgenas.architecture.blocks import MBConv
from edgenas.latency.comparing.character import Effect, character, pairs, resolved_us
from edgenas.latency.comparing.comparing import Contrast, Difference, Group
from edgenas.latency.comparing.findings import times
from edgenas.latency.comparing.naming import label
from edgenas.latency.table import LatencyTable
from edgenas.report.pictures import save_figure

_BLUE, _ORANGE, _RED, _GREEN, _GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#8a959e"
_MARKS = ((_BLUE, "o"), (_ORANGE, "s"), (_RED, "^"), (_GREEN, "D"))
_WIDTH_INCHES, _DPI = 7.2, 144
_SMALL = 7.5


def draw_character(table: LatencyTable, path: Path) -> None:
    """Draw how each choice changes a block's cost on a device, beside what its MACs say, to a .png or .svg."""
    costs_us = resolved_us(table)
    found = character(table).effects
    ratios = [[costs_us[other] / costs_us[layer] for layer, other in steps] for steps in pairs(costs_us).values()]
    names = list(dict.fromkeys(effect.choice for effect in found))
    rows = -(-(len(names) + 1) // 3)
    figure = _figure(0.5 + 2.4 * rows)
    panels = figure.subplots(rows, 3, squeeze=False).flat
    every = [1.0, *(ratio for steps in ratios for ratio in steps), *(effect.macs for effect in found)]
    for name, axes in zip(names, panels, strict=False):
        of_choice = [(effect, cases) for effect, cases in zip(found, ratios, strict=True) if effect.choice == name]
        # One scale for all, so that the choice that matters most is seen at once.
        axes.set_yscale("log")
        axes.set_ylim(min(every) / 2, max(every) * 1.3)
        _draw_choice(axes, name, [pair for pair in of_choice if pair[0].first == of_choice[0][0].first])
    _draw_macs(panels[len(names)], costs_us)
    for axes in panels[len(names) + 1 :]:
        axes.set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    figure.suptitle(f"What a choice costs, all else equal\n{label(table)}", fontsize=10)
    save_figure(figure, path)


def _draw_choice(axes: Any, name: str, steps: Sequence[tuple[Effect, Sequence[float]]]) -> None:
    """Cost against the values of a choice, relative to the least one."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white")]
    rng = np.random.default_rng(0)  # of the jitter
    medians = [1.0, *(effect.cost.median for effect, _ in steps)]
    places = range(len(medians))
    for place, (effect, ratios) in enumerate(steps, start=1):
        jitter = place + rng.uniform(-0.16, 0.16, len(ratios))
        axes.scatter(jitter, ratios, s=5, color=_BLUE, alpha=0.15, linewidths=0)
        axes.vlines(place, effect.cost.low, effect.cost.high, color=_BLUE, linewidth=4, alpha=0.6)
        # Beside the point, on the side of the cost's line where that of the MACs does not pass.
        below = effect.macs > effect.cost.median
        axes.annotate(
            times(effect.cost.median), (place, effect.cost.median), textcoords="offset points", ha="right",
            xytext=(-9, -13 if below else 4), fontsize=_SMALL, color="#003d60", weight="bold", path_effects=halo,
        )  # fmt: skip
    axes.plot(places, medians, color=_BLUE, marker="o", markersize=4, linewidth=1.4,
              label="measured cost: median and quartiles")  # fmt: skip
    axes.plot(places, [1.0, *(effect.macs for effect, _ in steps)], color=_RED, linestyle="--", marker="x",
              markersize=4, linewidth=1, label="MACs of the same blocks: median")  # fmt: skip
    _ratio_ticks(axes.yaxis)
    axes.set_xticks(places, [steps[0][0].first, *(effect.second for effect, _ in steps)])
    axes.set_xlim(-0.35, len(medians) - 0.65)
    axes.set_title(name, fontsize=9)
    axes.set_ylabel(f"relative to {steps[0][0].first}", fontsize=_SMALL)
    _quiet(axes)


def _draw_macs(axes: Any, costs_us: dict[Layer, float]) -> None:
    """Cost against multiply-accumulates, a mark a block, by kernel."""
    for mark, kernel in zip(_MARKS, _kernels(costs_us), strict=False):
        blocks = [layer for layer in costs_us if isinstance(layer.block, MBConv) and layer.block.kernel == kernel]
        axes.scatter(
            [layer.macs / 1000 for layer in blocks],
            [costs_us[layer] for layer in blocks],
            s=7, color=mark[0], marker=mark[1], alpha=0.6, linewidths=0, label=f"k{kernel}",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title("all blocks", fontsize=9)
    axes.set_xlabel("thousand MACs", fontsize=_SMALL)
    axes.set_ylabel("cost, us", fontsize=_SMALL)
    _quiet(axes)
    if _kernels(costs_us):
        axes.legend(fontsize=_SMALL, frameon=False, handletextpad=0.1)


def draw_difference(difference: Difference, path: Path) -> None:
    """Draw two tables side by side to a .png or .svg: each layer, each kind of layer, and each choice."""
    contrasts = [contrast for contrast in difference.contrasts if contrast.first.adjacent]
    heights = [4.4, 0.9 + 0.3 * len(contrasts)] if contrasts else [4.4]
    figure = _figure(sum(heights))
    top, *rest = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    left, right = top.subplots(1, 2, width_ratios=[1.1, 1])
    _draw_layers(left, difference)
    _draw_groups(right, difference)
    for bottom in rest:
        _draw_contrasts(bottom.subplots(), difference, contrasts)
    naming = difference.naming
    shared = f"\n{naming.shared}" if naming.shared else ""
    figure.suptitle(fill(f"{naming.second} against {naming.first}", 95) + shared, fontsize=10)
    save_figure(figure, path)


def _draw_layers(axes: Any, difference: Difference) -> None:
    """Each layer's cost in the second table against that in the first."""
    costs = difference.costs
    marks = dict(zip(_kernels(costs), _MARKS, strict=False))
    for kernel in (None, *marks):
        chosen = [us for layer, us in costs.items() if _kernel(layer, marks) == kernel]
        if chosen:
            color, marker = marks[kernel] if kernel is not None else (_GREY, "x")
            axes.scatter(*zip(*chosen, strict=True), s=9, color=color, marker=marker, alpha=0.6, linewidths=0.6,
                         label=f"k{kernel}" if kernel is not None else "other kinds")  # fmt: skip
    every = [us for pair in costs.values() for us in pair]
    ends = np.array([min(every) / 1.3, max(every) * 1.3])
    ratio = difference.shift.ratio.median
    axes.plot(ends, ends, color="black", linewidth=0.8, label="equal")
    axes.plot(ends, ends * ratio, color=_GREY, linestyle="--", linewidth=1, label=f"median, {times(ratio)}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_xlabel(fill(f"{difference.naming.first}: cost, us", 50), fontsize=8)
    axes.set_ylabel(fill(f"{difference.naming.second}: cost, us", 50), fontsize=8)
    axes.set_title(f"each layer; rank correlation {difference.spearman:.2f}", fontsize=9)
    _quiet(axes)
    axes.legend(fontsize=_SMALL, frameon=False, handletextpad=0.3)


def _draw_groups(axes: Any, difference: Difference) -> None:
    """How the costs of each kind of layer shift: median and quartiles."""
    groups = [group for group in difference.groups if group.shift.ratio.cases > 1]
    places = range(len(groups))
    for place, group in zip(places, groups, strict=True):
        ratio = group.shift.ratio
        axes.hlines(place, ratio.low, ratio.high, color=_color(group), linewidth=3.5, alpha=0.5)
        axes.plot(ratio.median, place, color=_color(group), marker="o", markersize=4)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.axvline(difference.shift.ratio.median, color=_GREY, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    _ratio_ticks(axes.xaxis)
    axes.set_yticks(places, [f"{group.name} ({group.shift.ratio.cases})" for group in groups])
    axes.invert_yaxis()
    axes.set_xlabel(fill(f"cost relative to {difference.naming.first}: median, quartiles", 50), fontsize=8)
    axes.set_title("each kind (layers)", fontsize=9)
    _quiet(axes)


def _color(group: Group) -> str:
    """Slower and faster for most of its layers."""
    return {1: _RED, -1: _BLUE, 0: _GREY}[group.shift.ratio.direction]


def _draw_contrasts(axes: Any, difference: Difference, contrasts: Sequence[Contrast]) -> None:
    """What each step of a choice costs in both tables, and by MACs; flips in bold."""
    places = np.arange(len(contrasts))
    for tables, offset, color, marker, name in (
        ([contrast.first for contrast in contrasts], -0.14, _BLUE, "o", difference.naming.first),
        ([contrast.second for contrast in contrasts], 0.14, _RED, "s", difference.naming.second),
    ):
        costs = [effect.cost for effect in tables]
        axes.hlines(places + offset, [cost.low for cost in costs], [cost.high for cost in costs], color=color,
                    linewidth=3, alpha=0.4)  # fmt: skip
        axes.plot([cost.median for cost in costs], places + offset, color=color, marker=marker, markersize=5,
                  linestyle="", label=fill(name, 24))  # fmt: skip
    macs = [contrast.first.macs for contrast in contrasts]
    axes.plot(macs, places, color="black", marker="|", markersize=11, linestyle="", label="by MACs")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    _ratio_ticks(axes.xaxis)
    axes.set_yticks(places, [_step(contrast) for contrast in contrasts])
    for text, contrast in zip(axes.get_yticklabels(), contrasts, strict=True):
        text.set_weight("bold" if contrast.flip else "normal")
    axes.set_ylim(len(contrasts) - 0.4, -0.6)
    axes.set_xlabel("cost of the step: median, quartiles", fontsize=8)
    flips = any(contrast.flip for contrast in contrasts)
    axes.set_title(f"each choice ({'bold: it flips' if flips else 'none flips'})", fontsize=9)
    _quiet(axes)
    axes.legend(fontsize=_SMALL, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _step(contrast: Contrast) -> str:
    return f"{contrast.first.second} / {contrast.first.first}"


def _kernels(layers: Any) -> list[int]:
    return sorted({layer.block.kernel for layer in layers if isinstance(layer.block, MBConv)})


def _kernel(layer: Layer, known: Any) -> int | None:
    return layer.block.kernel if isinstance(layer.block, MBConv) and layer.block.kernel in known else None


def _ratio_ticks(axis: Any) -> None:
    """Ticks of a log axis as factors: 0.5x, 1x, 2x."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / max(low, 1e-9) < 2000 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.set_minor_formatter(NullFormatter())


def _quiet(axes: Any) -> None:
    axes.tick_params(labelsize=_SMALL)
    axes.grid(alpha=0.3)


def _figure(height_inches: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH_INCHES, height_inches), dpi=_DPI, layout="constrained")
