"""How well latency tables predict networks that took no part in them, over SSH to this very machine.

For each of {tiny 28 px, standard 96 px, standard 160 px} x {float32, int8}, LiteRT, one thread: profiles the device
(a real OpenSSH server on loopback), measures 100 random networks and 50 without 7x7 kernels, each twice, and compares
them with the table's predictions. Twelve networks of the calibration are measured beside them: they tell the state that
the machine is in (the figures without that are printed as well). `--all` adds `tiny` with two threads, tflite-runtime
and hard-swish. Compares calibration methods on the same measurements. Then a device on a core of its own, how fast
predictions are made (estimate_codes.py), how well memory is predicted (memory.py), and every target beside what was
found. Prints tables and writes JSON. It resumes: what is measured stays in --work.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import edgenas.files as files
from benchmarks import estimate_codes, memory
from edgenas.architecture import Architecture
from edgenas.device import Device, Runtime, setup
from edgenas.latency.comparing.comparing import compare
from edgenas.latency.comparing.findings import sentences
from edgenas.latency.comparing.related import related_sentences
from edgenas.latency.profiling.anchors import anchors_of, state_of
from edgenas.latency.profiling.benches import AnyBench
from edgenas.latency.profiling.checking import bench_of, convert, measure_again
from edgenas.latency.profiling.profiler import BATCH, profile, table_name
from edgenas.latency.table import LatencyTable, table_names
from edgenas.latency.table.calibration import FEATURES, Calibration, Loads, fit
from edgenas.latency.table.certificate import Network, Quality, quality
from edgenas.ledger import Ledger
from edgenas.report.tables import draw_difference
from edgenas.space import MobileSpace
from tests.board import Board

OUT = Path("benchmarks/results/latency_tables.json").absolute()
MEMORY = memory.OUT.absolute()
SPACES = (("tiny", (28, 28, 1)), ("standard", (96, 96, 3)), ("standard", (160, 160, 3)))
SEED = 1000  # apart from the profiler's own
RANDOM, WITHOUT_7 = 100, 50


@dataclasses.dataclass(frozen=True)
class Setting:
    """One table."""

    space: MobileSpace
    precision: str
    runtime: str = "ai-edge-litert"
    threads: int = 1

    @property
    def main(self) -> bool:
        """Whether the targets are for it."""
        return self.runtime == "ai-edge-litert" and self.threads == 1 and self.space.activation == "relu6"

    def __str__(self) -> str:
        words = [self.space.name, f"{self.space.input_shape[0]} px", self.precision]
        words += [] if self.threads == 1 else [f"{self.threads} threads"]
        words += [] if self.runtime == "ai-edge-litert" else [self.runtime]
        words += [] if self.space.activation == "relu6" else [self.space.activation]
        return ", ".join(words)


def settings(everything: bool) -> list[Setting]:
    """The tables to make."""
    spaces = [MobileSpace(name, shape, 10) for name, shape in SPACES]
    made = [Setting(space, precision) for space in spaces for precision in ("int8", "float32")]
    if everything:
        for precision in ("int8", "float32"):
            made.append(Setting(spaces[0], precision, threads=2))
            made.append(Setting(spaces[0], precision, runtime="tflite-runtime"))
        other = MobileSpace("tiny", (28, 28, 1), 10, "hardswish")
        for runtime in ("ai-edge-litert", "tflite-runtime"):
            made += [Setting(other, precision, runtime=runtime) for precision in ("int8", "float32")]
    return made


def test_networks(space: MobileSpace) -> list[Architecture]:
    """100 random networks, then 50 without 7x7 kernels."""
    rng = np.random.default_rng(SEED)
    codes = space.sample(rng, WITHOUT_7)
    for position, (name, options) in enumerate(space.choices.items()):
        if name.endswith("_kernel"):
            largest = codes[:, position] == options.index(7)
            codes[largest, position] = rng.integers(0, options.index(7), int(largest.sum()))
    networks = dict.fromkeys(space.decode_codes(space.sample(rng, 2 * RANDOM)))
    few = dict.fromkeys(space.decode_codes(space.canonical(codes)))
    return [*list(networks)[:RANDOM], *few]


def measure(
    device: Device, table: LatencyTable, setting: Setting, journal: Ledger
) -> tuple[list[Network], list[Network]]:
    """The test networks, each measured twice, networks of the table beside them; and the same figures with nothing but
    the reference model beside them."""
    networks = test_networks(setting.space)
    done = journal.entries("measured")
    if not done:
        anchors = anchors_of(table)
        paths = convert(table, [*(Architecture.parse(anchor.notation) for anchor in anchors), *networks], progress)
        with bench_of(device, table) as bench:
            first, first_states = measure_beside(bench, table, anchors, paths)
            again, again_states = measure_beside(bench, table, anchors, paths)
        journal.append("measured", table=table.checksum, first=first, again=again, states=[first_states, again_states])
        done = journal.entries("measured")
    if done[0]["table"] != table.checksum:
        raise SystemExit(f"{journal.path} belongs to another table: remove it.")
    predicted = table.estimate_ms(networks)
    rows = list(zip(networks, done[0]["first"], done[0]["again"], predicted, *done[0]["states"], strict=True))
    return (
        [Network(str(network), first, again, float(p)) for network, first, again, p, _, _ in rows],
        [Network(str(network), first * s, again * t, float(p)) for network, first, again, p, s, t in rows],
    )


def measure_beside(
    bench: AnyBench, table: LatencyTable, anchors: Sequence[Network], paths: Sequence[Path]
) -> tuple[list[float], list[float]]:
    """What networks take in the table's milliseconds, anchors (the first of the paths) beside them in every batch; and
    the state by which each is divided."""
    *models, reference = paths
    beside, others = models[: len(anchors)], models[len(anchors) :]
    found: list[float] = []
    states: list[float] = []
    for start in range(0, len(others), BATCH - len(beside)):
        batch = others[start : start + BATCH - len(beside)]
        ratios = measure_again(bench, [*beside, *batch, reference], progress)
        state = state_of(table, anchors, ratios[: len(beside)])
        found += [ratio.value * table.reference[1] / 1000 / state for ratio in ratios[len(beside) :]]
        states += [state] * len(batch)
    return found, states


def progress(what: str, done: int, total: int) -> None:
    """One line on stderr now and then."""
    if done % 50 == 0:
        Console(stderr=True).print(f"  {time.strftime('%H:%M:%S')} {what} {done}/{total}", highlight=False)


# Calibration methods, all fitted on the same networks

Method = Callable[[np.ndarray, np.ndarray, Sequence[Loads]], Calibration]


def raw(sums: np.ndarray, truth_us: np.ndarray, loads: Sequence[Loads]) -> Calibration:
    """The sum of the layers as it is."""
    return Calibration()


def scale_offset(sums: np.ndarray, truth_us: np.ndarray, loads: Sequence[Loads]) -> Calibration:
    """Least squares of the relative error with two coefficients."""
    rows = np.c_[sums[:, 0], np.ones(len(sums))] / truth_us[:, None]
    (scale, offset), *_ = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)
    return Calibration({"sum": float(scale)}, float(offset))


def unshrunken(sums: np.ndarray, truth_us: np.ndarray, loads: Sequence[Loads]) -> Calibration:
    """Least squares of the relative error with every coefficient free, caches left out."""
    rows = np.c_[sums, np.ones(len(sums))] / truth_us[:, None]
    coefficients, *_ = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)
    return Calibration(dict(zip(FEATURES, map(float, coefficients), strict=False)), float(coefficients[-1]))


def without_caches(sums: np.ndarray, truth_us: np.ndarray, loads: Sequence[Loads]) -> Calibration:
    """The shrunken regression, caches left out."""
    return fit(sums, truth_us, [Loads(load.reload_us * 0, load.resident_kb) for load in loads])


METHODS: dict[str, Method] = {
    "sum of layers": raw,
    "scale and offset": scale_offset,
    "all coefficients, least squares": unshrunken,
    "all coefficients, shrunken": without_caches,
    "all coefficients, shrunken, and caches (used)": fit,
}


def with_method(table: LatencyTable, method: Method) -> LatencyTable:
    """The table with its calibration fitted by another method."""
    networks = table.calibration.networks
    found = [table.features(Architecture.parse(network.notation)) for network in networks]
    truth_us = np.array([network.truth_ms * 1000 for network in networks])
    calibration = method(np.array([sums for sums, _ in found]), truth_us, [loads for _, loads in found])
    return dataclasses.replace(table, calibration=calibration)


def predicted_by(table: LatencyTable, networks: Sequence[Network]) -> list[Network]:
    """Networks with another table's predictions."""
    predicted = table.estimate_ms([Architecture.parse(network.notation) for network in networks])
    return [dataclasses.replace(n, predicted_ms=float(p)) for n, p in zip(networks, predicted, strict=True)]


def held(table: LatencyTable, networks: Sequence[Network], coverage: float = 0.9) -> list[bool]:
    """Whether a single measurement of each, the later one, lies in its interval: that is what an interval is of."""
    factor = table.interval_factor(coverage)
    return [n.predicted_ms / factor <= n.repeated_ms <= n.predicted_ms * factor for n in networks]


# The run


def run(setting: Setting, devices: dict[str, Device]) -> dict[str, Any]:
    """Profile, measure, compare: one setting."""
    device = devices[setting.runtime]
    name = table_name(device, setting.space, setting.precision, setting.threads)
    path = Path("latency_tables") / f"{name}.json"
    if not path.exists():
        Console(stderr=True).print(f"{time.strftime('%H:%M:%S')} profiling {setting}", highlight=False)
        profile(device, setting.space, setting.precision, setting.threads)  # type: ignore[arg-type]
    table = LatencyTable.load(path)
    networks, beside_reference = measure(device, table, setting, Ledger(Path("networks") / f"{name}.jsonl"))
    drawn, few = networks[:RANDOM], networks[RANDOM:]
    provenance = table.provenance
    assert table.certificate is not None
    taken = [*table.calibration.networks, *table.certificate.networks, *table.certificate.intervals]
    assert not {n.notation for n in networks} & {n.notation for n in taken}, "a test network took part in the table"
    return {
        "setting": str(setting),
        "main": setting.main,
        "random": dataclasses.asdict(quality(drawn)),
        "without_7": dataclasses.asdict(quality(few)),
        "certificate": dataclasses.asdict(quality(table.certificate.networks)),
        "interval_factor": table.interval_factor(0.9),
        "held": held(table, drawn),
        "held_without_7": held(table, few),
        "methods": {
            method: [abs(n.relative_error) for n in predicted_by(with_method(table, fitted), drawn)]
            for method, fitted in METHODS.items()
        },
        "errors": [network.relative_error for network in drawn],
        "errors_beside_reference": [network.relative_error for network in beside_reference[:RANDOM]],
        "median_ms": float(np.median([network.truth_ms for network in drawn])),
        "wall_s": provenance["wall_s"],
        "device_busy_s": provenance["device_busy_s"],
        "conversion_s": provenance["conversion_s"],
        "sessions": provenance["sessions"],
    }


def run_apart(work: Path) -> dict[str, Any]:
    """One table of a device that does not share the host's cores: it is kept on core 1, the host on core 0, and the
    device's boot id is another one. Nothing is converted yet."""
    shutil.rmtree(work / "apart", ignore_errors=True)
    (work / "apart").mkdir()
    os.sched_setaffinity(0, {0})
    with contextlib.chdir(work / "apart"), Board(work / "apart" / "board", own_core=1) as board:
        device = board.device("apart", folder=f"{board.home}/apart")
        device.save()
        setup(device)
        table = profile(device, MobileSpace("tiny", (28, 28, 1), 10), "int8")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    assert table.certificate is not None
    kept = ("wall_s", "device_busy_s", "conversion_s", "start_s", "sending_s")
    return {key: table.provenance[key] for key in kept} | dataclasses.asdict(quality(table.certificate.networks))


def show_apart(found: dict[str, Any], console: Console) -> None:
    """Print it."""
    larger = max(found["device_busy_s"], found["conversion_s"])
    console.print(
        f"A device on a core of its own (tiny, 28 px, int8): {found['wall_s']:.0f} s, the device busy for "
        f"{found['device_busy_s']:.0f} s while the host's core converted for {found['conversion_s']:.0f} s: "
        f"{found['wall_s'] / larger:.2f} times the larger. Certificate: {found['within_5_percent']:.0%} within 5%."
    )


def show_runtimes(console: Console) -> list[str]:
    """What `edgenas table diff` says of the two runtimes, int8, and of the other tables of theirs; with a picture."""
    tables = {name: LatencyTable.load(name) for name in table_names()}
    first, second = tables["board-tiny-28x28x1-int8-t1"], tables["old-tiny-28x28x1-int8-t1-tflite-runtime"]
    found = compare(first, second)
    said = [*sentences(found), *related_sentences(first, second, tables.values())]
    draw_difference(found, OUT.with_name("runtimes.png"))
    console.print("edgenas table diff, LiteRT against tflite-runtime, int8:")
    for sentence in said:
        console.print(f"  - {sentence}", highlight=False)
    return said


def show(rows: list[dict[str, Any]], console: Console) -> dict[str, Any]:
    """Print it all; the pooled figures."""
    table = Table(title="100 random networks that took no part, and 50 without 7x7 kernels")
    heads = ("table", "median ms", "<5%", "<10%", "MAPE", "noise", "rank", "no 7x7: <5%", "<10%", "MAPE", "rank")
    for head in heads:
        table.add_column(head, justify="left" if head == "table" else "right")
    for row in rows:
        a, b = Quality(**row["random"]), Quality(**row["without_7"])
        table.add_row(
            row["setting"], f"{row['median_ms']:.3f}", f"{a.within_5_percent:.0%}", f"{a.within_10_percent:.0%}",
            f"{a.mape:.2%}", f"{a.noise_floor:.2%}", f"{a.spearman:.4f}", f"{b.within_5_percent:.0%}",
            f"{b.within_10_percent:.0%}", f"{b.mape:.2%}", f"{b.spearman:.4f}",
        )  # fmt: skip
    console.print(table)
    main = [row for row in rows if row["main"]]
    errors = np.abs(np.concatenate([row["errors"] for row in main]))
    intervals = np.concatenate([row["held"] for row in main])
    pooled: dict[str, Any] = {
        "networks": len(errors),
        "within_5_percent": float((errors <= 0.05).mean()),
        "within_10_percent": float((errors <= 0.10).mean()),
        "mape": float(errors.mean()),
        "intervals_held": float(intervals.mean()),
        "intervals_held_without_7": float(np.concatenate([row["held_without_7"] for row in main]).mean()),
    }
    lone = np.abs(np.concatenate([row["errors_beside_reference"] for row in main]))
    pooled["beside_reference"] = {
        "within_5_percent": float((lone <= 0.05).mean()),
        "within_10_percent": float((lone <= 0.10).mean()),
        "mape": float(lone.mean()),
    }
    console.print(
        f"Pooled, LiteRT, one thread: {pooled['networks']} networks, {pooled['within_5_percent']:.1%} within 5%, "
        f"{pooled['within_10_percent']:.1%} within 10%, MAPE {pooled['mape']:.2%}; 90% intervals hold "
        f"{pooled['intervals_held']:.1%} ({pooled['intervals_held_without_7']:.1%} of those without 7x7 kernels). "
        f"Held against the reference model alone: {(lone <= 0.05).mean():.1%} and {(lone <= 0.1).mean():.1%}, MAPE "
        f"{lone.mean():.2%}."
    )
    methods = Table(title="Calibration methods on the same measurements, pooled")
    for head in ("method", "<5%", "<10%", "MAPE"):
        methods.add_column(head)
    pooled["methods"] = {}
    for method in METHODS:
        found = np.concatenate([row["methods"][method] for row in main])
        figures = float((found <= 0.05).mean()), float((found <= 0.10).mean()), float(found.mean())
        pooled["methods"][method] = dict(zip(("within_5_percent", "within_10_percent", "mape"), figures, strict=True))
        methods.add_row(method, f"{figures[0]:.1%}", f"{figures[1]:.1%}", f"{figures[2]:.2%}")
    console.print(methods)
    cost = Table(title="What a profile costs: layers, calibration, intervals and certificate")
    for head in ("table", "wall s", "device busy s", "conversion s", "wall / (busy + conversion)"):
        cost.add_column(head, justify="left" if head == "table" else "right")
    for row in rows:
        ratio = f"{wall_ratio(row):.2f}" if row["sessions"] == 1 else "resumed"
        cost.add_row(row["setting"], *(f"{row[k]:.0f}" for k in ("wall_s", "device_busy_s", "conversion_s")), ratio)
    console.print(cost)
    return pooled


def wall_ratio(row: dict[str, Any]) -> float:
    """A profile's wall time over what device and converters took."""
    return float(row["wall_s"] / (row["device_busy_s"] + row["conversion_s"]))


def targets(results: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """What is promised, what was found, and whether that is enough."""
    main, pooled = [row for row in results["tables"] if row["main"]], results["pooled"]
    qualities = [Quality(**row[part]) for row in main for part in ("random", "without_7")]
    single = [row for row in main if row["sessions"] == 1]

    def share(name: str, least: float, found: float) -> tuple[str, str, bool]:
        return f"{name}: at least {least:.0%}", f"{found:.1%}", found >= least

    def most(name: str, limit: float, found: float, unit: str = "") -> tuple[str, str, bool]:
        return f"{name}: at most {limit:g}{unit}", f"{found:.2f}{unit}", found <= limit

    lines = [
        share("pooled, within 5%", 0.95, pooled["within_5_percent"]),
        share("pooled, within 10%", 0.99, pooled["within_10_percent"]),
        share("the worst table, within 5%", 0.90, min(q.within_5_percent for q in qualities)),
        share("the worst table, within 10%", 0.97, min(q.within_10_percent for q in qualities)),
        most("MAPE over the larger of 2.5% and twice the noise, the worst table", 1,
             max(q.mape / max(0.025, 2 * q.noise_floor) for q in qualities)),
        ("rank correlation, the worst table: at least 0.98", f"{min(q.spearman for q in qualities):.4f}",
         min(q.spearman for q in qualities) >= 0.98),
        ("90% intervals hold 85% to 95%, pooled", f"{pooled['intervals_held']:.1%}",
         0.85 <= pooled["intervals_held"] <= 0.95),
        most("wall / (device + conversion), the worst profile", 1.2, max(wall_ratio(row) for row in single)),
    ]  # fmt: skip
    for row in single:
        for name, limit_s in (("tiny", 300), ("160 px", 900)):
            if name in row["setting"]:
                lines.append(most(f"profile of {row['setting']}", limit_s, row["wall_s"], " s"))
    if "apart" in results:
        apart = results["apart"]
        larger = max(apart["device_busy_s"], apart["conversion_s"])
        lines.append(most("wall / the larger of device and conversion, apart", 1.5, apart["wall_s"] / larger))
    for what, key, least in (("codes", "codes_a_second", 1_000_000), ("objects", "objects_a_second", 20_000)):
        found = min((row[key] for row in results.get("speed", [])), default=None)
        if found is not None:
            lines.append((f"{what} predicted a second: at least {least:,}", f"{found:,}", found >= least))
    for figure, limit in (("model", 1), ("arena", 10)):
        rows = [row for row in results.get("memory", []) if row["figure"] == figure]
        if figure == "arena":
            rows = [row for row in rows if row["precision"] == "int8"]
        if rows:
            lines.append(
                most(f"error of {figure} size", limit, max(abs(r["largest_error_percent"]) for r in rows), "%")
            )
    return lines


def show_targets(results: dict[str, Any], console: Console) -> list[dict[str, Any]]:
    """Print them."""
    lines = targets(results)
    table = Table(title="Targets")
    for head in ("target", "found", ""):
        table.add_column(head)
    for what, found, met in lines:
        table.add_row(what, found, "met" if met else "MISSED")
    console.print(table)
    return [{"target": what, "found": found, "met": met} for what, found, met in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/results/latency_tables"), help="measurements")
    parser.add_argument("--all", action="store_true", help="two threads, tflite-runtime and hard-swish too")
    parser.add_argument("--only", default="", help="settings whose name holds this")
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    chosen = [setting for setting in settings(arguments.all) if arguments.only in str(setting)]
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    console = Console(width=150)
    with ExitStack() as stack:
        board = stack.enter_context(Board(work / "board"))
        devices = {}
        for name, package in (("board", "ai-edge-litert"), ("old", "tflite-runtime")):
            device = board.device(name, folder=f"{board.home}/{name}", runtime=Runtime(package))  # type: ignore[arg-type]
            device.save()
            if any(setting.runtime == package for setting in chosen):
                setup(device)
            devices[package] = device
        for setting in chosen:
            rows.append(run(setting, devices))
            pooled = show(rows, console)
            results |= {"pooled": pooled, "tables": rows}
            files.write_atomically(OUT, json.dumps(results, indent=1) + "\n")
    if not arguments.only:
        apart = Path("apart.json")
        if not apart.exists():
            files.write_atomically(apart, json.dumps(run_apart(work)))
        show_apart(json.loads(apart.read_text()), console)
        speed = estimate_codes.run(100_000, console)
        results |= {"apart": json.loads(apart.read_text()), "speed": speed}
        results["memory"] = memory.run(memory.COUNT, MEMORY)
        if arguments.all:
            results["runtimes"] = show_runtimes(console)
        results["targets"] = show_targets(results, console)
        files.write_atomically(OUT, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
