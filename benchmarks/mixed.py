"""What layers of two precisions in one network bring on this machine, and how well that is predicted.

Profiles the device `local` in int8 and float32 (space `tiny`, 28x28x1, one thread), draws networks at random, and looks
for the mix of precisions that the tables say is fastest. Some of the networks that it pays for, evenly spread over what
it is said to save, are converted to int8, float32 and the mix, with random weights, and all three files are measured in
the same rounds. Prints a table and writes JSON. It resumes: what is measured stays in --work.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.device import Device, connect, open_agent
from edgenas.errors import InputError
from edgenas.latency.profiling.anchors import spread
from edgenas.latency.profiling.measuring import reference_path
from edgenas.latency.profiling.planning import FEWER_NETWORKS, plan_profile
from edgenas.latency.profiling.profiler import profile
from edgenas.latency.profiling.rounds import measure_rounds
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import find_table
from edgenas.latency.table.mixed import Mix, fastest_mix
from edgenas.ledger import Ledger
from edgenas.model import Precision, convert
from edgenas.model.convert import random_model
from edgenas.space import MobileSpace

OUT = Path("benchmarks/results/mixed.json").absolute()
SPACE = MobileSpace("tiny", (28, 28, 1), 10)
DEVICE = Device("local", "local:")
SEED, DRAWN, MEASURED, AT_ONCE = 7, 500, 32, 8
FILES = ("int8", "float32", "mixed")


def table_of(precision: Precision) -> LatencyTable:
    """This machine's table, made where it is not there."""
    try:
        return find_table(DEVICE, SPACE, precision, 1)[1]
    except InputError:
        print(f"profiling, {precision} ...", flush=True)
        return profile(DEVICE, SPACE, precision, plan=plan_profile(SPACE, networks=FEWER_NETWORKS))


def write(network: Architecture, mix: Mix, folder: Path) -> list[str]:
    """The paths of a network's three files."""
    made = [folder / f"{network.id}-{name}.tflite" for name in FILES]
    if not all(path.is_file() for path in made):
        model, images = random_model(network)
        contents = [
            convert(model, "int8", images),
            convert(model, "float32"),
            convert(model, "int8", images, mix.float_layers),
        ]
        for path, content in zip(made, contents, strict=True):
            files.write_atomically(path, content)
    return [str(path.absolute()) for path in made]


def measure(chosen: dict[Architecture, Mix], log: Ledger) -> list[dict[str, Any]]:
    """A line of each network, its three files measured beside a reference model."""
    done = {line["id"] for line in log.entries("measured")}
    left = [network for network in chosen if network.id not in done]
    for start in range(0, len(left), AT_ONCE):
        some = left[start : start + AT_ONCE]
        models = [path for network in some for path in write(network, chosen[network], Path("files"))]
        with connect(DEVICE) as connection, open_agent(connection) as agent:
            agent.lock()
            reference = str(reference_path().absolute())
            rounds = measure_rounds(agent, models, reference, runtime="ai-edge-litert", threads=1, cores=None)
        times_us = [float(np.median(visits)) for visits in rounds.visits_us]
        for index, network in enumerate(some):
            mix = chosen[network]
            log.append(
                "measured",
                id=network.id,
                notation=str(network),
                float_layers=mix.float_layers,
                predicted_ms=[mix.int8_ms, mix.float32_ms, mix.latency_ms],
                measured_ms=[us / 1000 for us in times_us[3 * index : 3 * index + 3]],
                bytes=[Path(path).stat().st_size for path in models[3 * index : 3 * index + 3]],
            )
        print(f"measured {start + len(some)} of {len(left)}", flush=True)
    known = {network.id for network in chosen}
    return [line for line in log.entries("measured") if line["id"] in known]


def summarise(drawn: int, paying: int, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures over all networks."""
    predicted, measured = (np.array([line[key] for line in lines]) for key in ("predicted_ms", "measured_ms"))
    sizes = np.array([line["bytes"] for line in lines], float)
    # Against the measured int8 file of the same rounds: what drifts drifts for both.
    said, found = predicted[:, 2] / predicted[:, 0], measured[:, 2] / measured[:, 0]
    error = np.abs(said / found - 1)
    return {
        "networks": drawn,
        "paying": paying,
        "measured": len(lines),
        "faster_than_both": float((measured[:, 2] < measured[:, :2].min(axis=1)).mean()),
        "time_of_int8": np.quantile(found, [0, 0.5, 1]).tolist(),
        "time_of_the_faster": np.quantile(measured[:, 2] / measured[:, :2].min(axis=1), [0, 0.5, 1]).tolist(),
        "size_of_int8": np.quantile(sizes[:, 2] / sizes[:, 0], [0, 0.5, 1]).tolist(),
        "size_of_float32": np.quantile(sizes[:, 2] / sizes[:, 1], [0, 0.5, 1]).tolist(),
        "mape": float(error.mean()),
        "within_5_percent": float((error <= 0.05).mean()),
        "within_10_percent": float((error <= 0.1).mean()),
    }


def show(lines: list[dict[str, Any]], total: dict[str, Any]) -> None:
    """The table and the summary."""
    heads = ("network", "float32 layers", "int8 ms", "float32 ms", "mixed ms", "predicted", "mixed / int8")
    print("  ".join(f"{head:>14}" for head in heads))
    for line in lines:
        int8, float32, mixed = line["measured_ms"]
        of = ",".join(map(str, line["float_layers"]))
        cells = (line["id"], of, f"{int8:.3f}", f"{float32:.3f}", f"{mixed:.3f}", f"{line['predicted_ms'][2]:.3f}")
        print("  ".join(f"{cell:>14}" for cell in (*cells, f"{mixed / int8:.2f}")))
    low, middle, high = total["time_of_the_faster"]
    print(
        f"a mix pays for {total['paying']} of {total['networks']} random networks by the tables; "
        f"of {total['measured']} measured {total['faster_than_both']:.0%} are faster than int8 and float32\n"
        f"its time over that of the faster precision: {low:.2f} to {high:.2f}, median {middle:.2f}; "
        f"over int8's: median {total['time_of_int8'][1]:.2f}\n"
        f"its size over int8's: median {total['size_of_int8'][1]:.2f}, over float32's: "
        f"{total['size_of_float32'][1]:.2f}\n"
        f"time over int8's as predicted: {total['within_5_percent']:.0%} within 5%, {total['within_10_percent']:.0%} "
        f"within 10%, mean error {total['mape']:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".edgenas/benchmarks/mixed"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(options.work):
        int8, float32 = table_of("int8"), table_of("float32")
        drawn = dict.fromkeys(SPACE.decode_codes(SPACE.sample(np.random.default_rng(SEED), DRAWN)))
        mixes = {network: fastest_mix(int8, float32, network) for network in drawn}
        paying = {network: mix for network, mix in mixes.items() if mix.pays}
        saved = [mix.latency_ms / min(mix.int8_ms, mix.float32_ms) for mix in paying.values()]
        chosen = dict(spread(list(paying.items()), saved, MEASURED))
        lines = measure(chosen, Ledger(Path("ledger.jsonl")))
        total = summarise(len(drawn), len(paying), lines)
    show(lines, total)
    files.write_atomically(options.out, json.dumps({"total": total, "networks": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
