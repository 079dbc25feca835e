"""How fast a latency table predicts: rows of codes and `Architecture` objects, beside a plain loop over a dictionary.

All run in turn, in the same process on one core, on the same networks and costs; the ratio is what counts. The table
also reckons with the caches, which the loop cannot. The costs are made up (`simulated`): only speed is shown here.
Prints a table and writes JSON.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.calibration import Calibration
from edgenas.space import MobileSpace

OUT = Path("benchmarks/results/estimate_codes.json")
ROUNDS = 5
OBJECTS = 5_000
SPACES = (("tiny", (28, 28, 1)), ("standard", (96, 96, 3)), ("standard", (160, 160, 3)))


def simulated(space: MobileSpace) -> LatencyTable:
    """A table with made-up costs."""
    rng = np.random.default_rng(0)
    nothing = Identity("none", "", "", 0, 0, "", "", "", "", "ai-edge-litert", "", "", 1, None, "int8", "")
    entries = {}
    for layer in space.layers():
        us, reload_us, resident_kb = map(float, rng.uniform((1, 1, 1), (100, 30, 800)))
        entries[layer] = Entry(us, 0.0, us + reload_us, resident_kb)
    calibration = Calibration({"sum": 1.02}, 3.0, cache_kb=2048.0, refetch=0.7)
    return LatencyTable(nothing, "simulated", ("", 0.0), 0.0, entries, calibration)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(name: str, shape: tuple[int, int, int], count: int) -> dict[str, Any]:
    """One space: all ways in turn, medians."""
    space = MobileSpace(name, shape, classes=10)
    ready_s = seconds(space.layers)  # finds out where each layer stands, once
    table = simulated(space)
    codes = space.sample(np.random.default_rng(1), count)
    # What the plain loop gets for nothing: its networks as lists of short keys.
    layers = [str(layer) for layer in space.layers()]
    networks = [[layers[i] for i in row if i < len(layers)] for row in space.layer_index(codes)]
    costs = {str(layer): entry.us for layer, entry in table.entries.items()}

    def plain() -> list[float]:
        return [(1.02 * sum([costs[key] for key in network]) + 3.0) / 1000 for network in networks]

    bare = dataclasses.replace(table, calibration=Calibration({"sum": 1.02}, 3.0))
    np.testing.assert_allclose(bare.estimate_codes_ms(space, codes), plain())
    by_codes, by_loop, by_objects = [], [], []
    for _ in range(ROUNDS):
        by_codes.append(seconds(lambda: table.estimate_codes_ms(space, codes)))
        by_loop.append(seconds(plain))
        objects = space.decode_codes(codes[:OBJECTS])  # new ones: nothing of them is known yet
        by_objects.append(seconds(lambda objects=objects: table.estimate_ms(objects)))  # type: ignore[misc]
    return {
        "space": f"{name}, {shape[0]} px",
        "networks": count,
        "ready_s": round(ready_s, 3),
        "estimate_codes_s": round(float(np.median(by_codes)), 4),
        "codes_a_second": round(count / float(np.median(by_codes))),
        "plain_loop_a_second": round(count / float(np.median(by_loop))),
        "codes_times_faster": round(float(np.median(np.array(by_loop) / np.array(by_codes))), 1),
        "objects_a_second": round(OBJECTS / float(np.median(by_objects))),
        "costs": "simulated",
    }


def run(count: int, console: Console) -> list[dict[str, Any]]:
    """Measure all spaces on one core and print them."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if cores is not None:
        os.sched_setaffinity(0, {min(cores)})
    rows = [measure(name, shape, count) for name, shape in SPACES]
    if cores is not None:
        os.sched_setaffinity(0, cores)
    table = Table(title=f"Predicting {count:,} networks from codes, {OBJECTS:,} from Architecture objects, one core")
    for head in rows[0]:
        table.add_column(head.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    console.print(table)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = run(options.networks, Console(width=160))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
