"""How fast `LatencyTable.estimate_codes_ms` predicts 100,000 networks, beside a plain loop over a dictionary.

Both run in turn, in the same process, on the same networks and costs; the ratio is what counts. The costs are made
up (`simulated`): only speed is shown here. Prints a table and writes JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgenas.latency.table import Calibration, Entry, Identity, LatencyTable
from edgenas.space import MobileSpace

OUT = Path("benchmarks/results/estimate_codes.json")
ROUNDS = 5


def simulated(space: MobileSpace) -> LatencyTable:
    """A table with made-up costs."""
    rng = np.random.default_rng(0)
    nothing = Identity("simulated", "simulated", "simulated", "simulated", "0", "none", 1, None, "int8", "none")
    entries = {layer: Entry(float(rng.uniform(1, 100)), 0.0) for layer in space.layers()}
    return LatencyTable(nothing, "simulated", ("none", 1.0), 0.0, entries, Calibration(1.02, 3.0))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(name: str, shape: tuple[int, int, int], count: int) -> dict[str, object]:
    """One space: both ways in turn, medians."""
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

    np.testing.assert_allclose(table.estimate_codes_ms(space, codes), plain())
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: table.estimate_codes_ms(space, codes)))
        theirs.append(seconds(plain))
    return {
        "space": name,
        "input": "x".join(map(str, shape)),
        "networks": count,
        "layers": len(layers),
        "ready_s": round(ready_s, 3),
        "estimate_codes_s": round(float(np.median(ours)), 4),
        "slowest_s": round(max(ours), 4),
        "plain_loop_s": round(float(np.median(theirs)), 4),
        "times_faster": round(float(np.median(np.array(theirs) / np.array(ours))), 1),
        "costs": "simulated",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = [
        measure("tiny", (28, 28, 1), options.networks),
        measure("standard", (96, 96, 3), options.networks),
        measure("standard", (224, 224, 3), options.networks),
    ]
    print("  ".join(f"{head:>16}" for head in rows[0]))
    for row in rows:
        print("  ".join(f"{value!s:>16}" for value in row.values()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
