"""How well arena, file and peak RSS growth are predicted from the architecture, against what has them in fact.

For random networks of {tiny 28 px, standard 96 px} x {float32, int8}: the arena is TensorFlow Lite Micro's, as
`print_allocations` of the `tflite-micro` package says; the file is a bundle's; the growth is that of a fresh
process on this machine (LiteRT, one thread). `tflite-micro` stays out of this environment: it gets one of its own in a
temporary place, or `--micro-python` names a Python that has it. It resumes: each network's figures are appended to
memory.jsonl, and what is there is not measured again. Prints a table and writes JSON.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.model
from edgenas.architecture import Architecture
from edgenas.deploy.describing import described
from edgenas.device import Agent, Device, connect, open_agent
from edgenas.files import sha256
from edgenas.latency.memory import Values, arena_kb, model_kb, peak_rss_growth_kb
from edgenas.model import PRECISIONS, Precision, convert_network, converter_version
from edgenas.space import MobileSpace

OUT = Path("benchmarks/results/memory.json")
SPACES = (("tiny", (28, 28, 1)), ("standard", (96, 96, 3)))
LABELS = [f"label {number}" for number in range(10)]
COUNT = 30
SEED = 2026  # the constants were fitted on networks of seed 4242
MICRO = ("tflite-micro==0.dev20261023182759", "numpy==2.4.6")
PREDICTIONS: dict[str, Callable[..., Any]] = {"model": model_kb, "arena": arena_kb, "rss_growth": peak_rss_growth_kb}
ADJUSTED = "rss_growth_adjusted"  # what the runtime takes by itself is known from the group's first network
# Allocations are written by C++, to wherever it likes: both streams are read.
PRINT_ALLOCATIONS = """
import sys
from tflite_micro import runtime
content = open(sys.argv[1], "rb").read()
runtime.Interpreter.from_bytes(content, arena_size=256 << 20).print_allocations()
"""


def micro_environment(folder: Path) -> Path:
    """The Python of a new environment with `tflite-micro`."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *MICRO], check=True)
    return python


def micro_arena(python: Path, model: Path) -> dict[str, float]:
    """What TensorFlow Lite Micro's interpreter allocates, kB: the whole, activations (head) and records (tail).

    A microcontroller's arena of just that many bytes is enough: the interpreter fits into it, and not into 32 fewer.
    """
    done = subprocess.run(
        [python, "-c", PRINT_ALLOCATIONS, model.absolute()], capture_output=True, text=True, timeout=300
    )
    said = done.stdout + done.stderr
    found = {part: re.search(rf"Arena allocation {part} (\d+) bytes", said) for part in ("total", "head", "tail")}
    if done.returncode or not all(found.values()):
        raise SystemExit(f"tflite-micro refuses {model}:\n{said[-2000:]}")
    return {part: int(match.group(1)) / 1024 for part, match in found.items() if match}


def growth(agent: Agent, model: Path) -> int:
    """Growth of the peak RSS of a fresh process that loads a model and runs it, kB."""
    answer = agent.call("single", timeout_s=300, model=str(model.absolute()), runs=1)
    return int(answer["peak_rss_growth_kb"])


def subjects(count: int) -> Iterator[tuple[MobileSpace, Architecture, Precision]]:
    """What is measured, a few of everything at a time."""
    spaces = [MobileSpace(name, shape, 10) for name, shape in SPACES]
    networks = [space.decode_codes(space.sample(np.random.default_rng(SEED), count)) for space in spaces]
    for row in zip(*networks, strict=True):
        for space, network in zip(spaces, row, strict=True):
            for precision in PRECISIONS:
                yield space, network, precision


def measure(
    space: MobileSpace, network: Architecture, precision: Precision, agent: Agent, python: Path, folder: Path
) -> dict[str, Any]:
    """One line of the results; `measured` holds kB."""
    model = folder / "model.tflite"
    model.write_bytes(described(convert_network(network, precision), "memory", network, precision, LABELS, "pad"))
    arena = micro_arena(python, model)
    return {
        "space": space.name,
        "input": "x".join(map(str, space.input_shape)),
        "precision": precision,
        "network": str(network),
        "made_by": made_by(),
        "measured": {
            "model": model.stat().st_size / 1024, "arena": arena["total"], "rss_growth": growth(agent, model)
        },
        "arena_head": arena["head"],
        "arena_tail": arena["tail"],
    }  # fmt: skip


def made_by() -> str:
    """The converter and the code that make the files: what another one made is measured again."""
    code = [path.read_bytes() for path in sorted(Path(edgenas.model.__file__).parent.glob("*.py"))]
    return f"{converter_version()} {sha256(b''.join(code))[:12]}"


def summary(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Errors of the predictions as they are now, by space, precision and figure."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["space"], line["input"], line["precision"]].append(line)
    rows = []
    for (space, shape, precision), group in groups.items():
        networks = [Architecture.parse(line["network"]) for line in group]
        for figure, predict in PREDICTIONS.items():
            measured = np.array([line["measured"][figure] for line in group])
            predicted = predict(networks, precision)
            rows.append(_row(space, shape, precision, figure, measured, predicted))
        if len(group) == 1:
            continue
        runtime_kb = measured[0] - peak_rss_growth_kb(networks[:1], precision, runtime_kb=0)[0]
        predicted = peak_rss_growth_kb(networks, precision, runtime_kb)
        rows.append(_row(space, shape, precision, ADJUSTED, measured[1:], predicted[1:]))
    return rows


def _row(space: str, shape: str, precision: str, figure: str, measured: Values, predicted: Values) -> dict[str, Any]:
    error_kb = predicted - measured
    error = 100 * error_kb / measured
    return {
        "space": space,
        "input": shape,
        "precision": precision,
        "figure": figure,
        "networks": len(measured),
        "smallest_kb": round(float(measured.min()), 1),
        "largest_kb": round(float(measured.max()), 1),
        "mean_error_percent": round(float(np.abs(error).mean()), 2),
        "largest_error_percent": round(float(error[np.abs(error).argmax()]), 2),
        "largest_error_kb": round(float(error_kb[np.abs(error_kb).argmax()]), 2),
    }


def run(count: int, out: Path, micro_python: Path | None = None) -> list[dict[str, Any]]:
    """Measure what is not measured yet, print the summary, and write it.

    Args:
        count: networks of each space, in both precisions.
        out: the JSON; what was measured lies beside it.
        micro_python: a Python that has tflite-micro; None: a new one.
    """
    log = out.with_suffix(".jsonl")
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    lines = [line for line in lines if line.get("made_by") == made_by()]
    known = {(line["network"], line["precision"]) for line in lines}
    wanted = list(subjects(count))
    missing = [subject for subject in wanted if (str(subject[1]), subject[2]) not in known]
    device = Device("local", "local:")
    with tempfile.TemporaryDirectory() as name, connect(device) as connection, open_agent(connection) as agent:
        runtime = f"{device.runtime.package} {agent.runtime_version(device.runtime.package)}"
        python = micro_python or (micro_environment(Path(name) / "micro") if missing else None)
        for number, subject in enumerate(missing, start=1):
            assert python is not None
            lines.append(measure(*subject, agent, python.absolute(), Path(name)))
            with log.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            print(f"{number}/{len(missing)} {subject[1].id} {subject[2]}", file=sys.stderr, flush=True)
    chosen = {(str(network), precision) for _, network, precision in wanted}
    rows = summary([line for line in lines if (line["network"], line["precision"]) in chosen])
    print("  ".join(f"{head:>21}" for head in rows[0]))
    for row in rows:
        print("  ".join(f"{value!s:>21}" for value in row.values()))
    about = {"converter": converter_version(), "micro": MICRO[0], "runtime": runtime, "rows": rows}
    out.write_text(json.dumps(about, indent=1) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=COUNT, help="of each space, in both precisions")
    parser.add_argument("--micro-python", type=Path, help="a Python that has tflite-micro")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    run(options.networks, options.out, options.micro_python)


if __name__ == "__main__":
    main()
