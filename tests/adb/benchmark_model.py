"""A stand-in for TFLite's benchmark_model: it runs the model, with LiteRT, and prints what the real one does.

Where a test's virtual machine can be imported, a model takes what that says; else what it takes.

BENCHMARK_STYLE in its environment: "classic" (TFLite's of the years before), "percentiles" (with a prefix and
percentiles, as now), "litert" (LiteRT's tool: another text, and the protobuf result file), "canned" (every model takes
the same: for tests of what else is done to a phone). BENCHMARK_SAYS: a text to print instead of all.
BENCHMARK_DELEGATED: what a delegate takes of each model: "completely", "partially" or "not". A model that begins with
EDGENAS-CRASH, -HANGS, -ODD or -ODD-ONCE is one that benchmark_model does that with.
"""

import hashlib
import math
import os
import resource
import signal
import statistics
import struct
import sys
import time
from pathlib import Path

try:
    import machine  # tests/virtual/machine.py
except ImportError:
    machine = None

STYLE = os.environ.get("BENCHMARK_STYLE", "classic")
TAKEN = os.environ.get("BENCHMARK_DELEGATED", "completely")  # or "partially", "not"
CANNED = """count=4 first=31 curr=12 min=11 max=31 avg=12.5 std=6

Running benchmark for at least 50 iterations and at least 0.1 seconds but terminate if exceeding 9 seconds.
count=5000 first=12 curr=10 min=9 max=30 avg=10.25 std=1

Inference timings in us: Init: 500, First inference: 31, Warmup (avg): 12.5, Inference (avg): 10.25
Memory footprint delta from the start of the tool (MB): init=1 overall=2"""
FLAGS = {
    "graph": "", "num_runs": "50", "min_secs": "1", "max_secs": "150", "warmup_runs": "1", "warmup_min_secs": "0.5",
    "num_threads": "-1", "use_xnnpack": "", "use_gpu": "false", "use_nnapi": "false", "run_frequency": "-1",
    "enable_op_profiling": "false", "profiling_output_csv_file": "", "result_file_path": "",
}  # fmt: skip


def say(text: str) -> None:
    print(f"INFO: {text}" if STYLE != "classic" else text, flush=True)


def number(value: float) -> str:
    """As C++ prints a double."""
    return f"{value:g}"


def counts(times: list[int]) -> str:
    if min(times) == max(times):
        text = f"count={len(times)} curr={times[-1]}" + ("(all same)" if len(times) > 1 else "")
    else:
        mean = sum(times) / len(times)
        spread = math.sqrt(max(0.0, sum(t * t for t in times) / len(times) - mean * mean))
        text = (
            f"count={len(times)} first={times[0]} curr={times[-1]} min={min(times)} max={max(times)} "
            f"avg={number(mean)} std={int(spread)}"
        )
    if STYLE == "percentiles":
        ordered = sorted(times)
        p5, p50, p95 = (ordered[len(ordered) * p // 100] for p in (5, 50, 95))
        text += f" p5={p5} median={p50} p95={p95}"
    return text


def now_us() -> float:
    return machine.now_us() if machine else time.perf_counter_ns() / 1000


class Virtual:
    """A model on the virtual machine; what it takes is reckoned once: LiteRT's import takes longer than all else."""

    def __init__(self, path: str) -> None:
        known = Path(os.environ["PHONE"]) / "costs" / hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if not known.exists():
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(path)
            us = machine.cost_us(interpreter._get_ops_details(), interpreter.get_tensor_details())
            interpreter.allocate_tensors()
            known.parent.mkdir(exist_ok=True)
            known.write_text(str(us))
        self._us = float(known.read_text())

    def invoke(self) -> None:
        machine.spend(self._us)


def load(path: str, threads: int, xnnpack: bool):
    """A model that can be invoked; ValueError or RuntimeError where it is none."""
    if machine:
        return Virtual(path)
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(path, num_threads=threads, experimental_op_resolver_type=kind)
    interpreter.allocate_tensors()
    return interpreter


def run(invoke, least: int, seconds: float, most_seconds: float, frequency: float) -> list[int]:
    say(
        f"Running benchmark for at least {least} iterations and at least {number(seconds)} seconds but terminate if "
        f"exceeding {number(most_seconds)} seconds."
    )
    times: list[int] = []
    now = began = now_us()
    while (len(times) < least or now < began + seconds * 1e6) and now <= began + most_seconds * 1e6:
        start = now_us()
        invoke()
        times.append(int(now_us() - start))
        if frequency > 0:
            wait_s = max(0.0, (began - now_us()) / 1e6 + len(times) / frequency)
            machine.sleep(wait_s) if machine else time.sleep(wait_s)
        now = now_us()
    say(counts(times))
    print(flush=True)
    return times


def table(rows: list[tuple[str, int, str]]) -> str:
    """Operators as the CSV formatter writes them: kind, microseconds, name."""
    total = sum(us for _, us, _ in rows) or 1
    lines = ["============================== Run Order ==============================",
             "node type, start, first, avg_ms, %, cdf%, mem KB, times called, name"]  # fmt: skip
    begun = 0
    for kind, us, name in rows:
        lines.append(
            f"{kind}, {number(begun / 1000)}, {number(us / 1000)}, {number(us / 1000)}, {number(100 * us / total)}%, "
            f"{number(100 * (begun + us) / total)}%, 0, 1, {name}"
        )
        begun += us
    lines += ["", f"Number of nodes executed: {len(rows)}",
              "============================== Summary by node type ==============================",
              "node type, count, avg_ms, avg %, cdf %, mem KB, times called", "",
              f"Timings (microseconds): count=1 curr={total}", "Memory (bytes): count=0",
              f"{len(rows)} nodes observed", "", ""]  # fmt: skip
    return "\n".join(lines)


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def result(times: list[int], warmup: list[int], init_us: float, growth_kb: int) -> bytes:
    """BenchmarkResult."""
    mean = sum(times) / len(times)
    ordered = sorted(times)
    latency = b"".join(
        varint(field << 3 | 5) + struct.pack("<f", us / 1000)
        for field, us in (
            (1, mean), (2, min(times)), (3, max(times)), (4, statistics.pstdev(times)), (5, ordered[len(times) // 2]),
            (8, init_us), (9, warmup[0]), (10, sum(warmup) / len(warmup)),
        )
    )  # fmt: skip
    memory = varint(2 << 3) + varint(growth_kb)
    misc = varint(2 << 3) + varint(len(times)) + varint(3 << 3) + varint(len(warmup))
    return b"".join(
        varint(field << 3 | 2) + varint(len(part)) + part for field, part in ((2, latency), (3, memory), (4, misc))
    )


def main() -> int:
    flags = dict(FLAGS)
    odd = []
    for word in sys.argv[1:]:
        name, _, value = word.removeprefix("--").partition("=")
        if name == "help":
            print("usage: benchmark_model <flags>\nFlags:\n\t--graph=\tstring\toptional\tgraph file name")
            return 1
        if name in flags:
            flags[name] = value
        else:
            odd.append(word)
    if "BENCHMARK_SAYS" in os.environ:
        print(os.environ["BENCHMARK_SAYS"])
        return 0
    say("STARTING!")
    if odd:
        print(f"WARN: Unconsumed cmdline flags: {' '.join(odd)}")
    say(f"Graph: [{flags['graph']}]")
    odd_once = Path(flags["graph"] + ".odd")
    match Path(flags["graph"]).read_bytes()[:64].rstrip():
        case b"EDGENAS-CRASH":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"EDGENAS-HANGS":
            time.sleep(600)
        case b"EDGENAS-ODD":
            print("Inference timings in us: Init: 1, First inference: 1")
            return 0
        case b"EDGENAS-ODD-ONCE" if not odd_once.exists():
            odd_once.touch()
            print("Inference timings in us: Init: 1, First inference: 1")
            return 0
    asked = [name for name in ("XNNPACK", "GPU", "NNAPI") if flags[f"use_{name.lower()}"] == "true"]
    for name in asked:
        applied = f"Though {name} delegate is explicitly applied," if TAKEN == "not" else (
            f"Explicitly applied {name} delegate, and")  # fmt: skip
        say(f"{applied} the model graph will {'not be' if TAKEN == 'not' else f'be {TAKEN}'} executed by the delegate.")
    if STYLE == "canned":
        print(CANNED)
        return 0
    began_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = now_us()
    try:
        interpreter = load(flags["graph"], max(1, int(flags["num_threads"])), flags["use_xnnpack"] != "false")
    except (ValueError, RuntimeError):
        print(f"ERROR: Failed to mmap model {flags['graph']}", file=sys.stderr)
        print("ERROR: Benchmarking failed.", file=sys.stderr)
        return 1
    init_us = max(1, int(now_us() - start))
    say(f"Loaded model {flags['graph']}")
    say(f"The input model file size (MB): {number(Path(flags['graph']).stat().st_size / 1e6)}")
    say(f"Initialized session in {number(init_us / 1000)}ms.")
    most, frequency = float(flags["max_secs"]), float(flags["run_frequency"])
    warmup = run(interpreter.invoke, int(flags["warmup_runs"]), float(flags["warmup_min_secs"]), most, frequency)
    times = run(interpreter.invoke, int(flags["num_runs"]), float(flags["min_secs"]), most, frequency)
    growth_kb = 900 if machine else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began_kb
    mean = sum(times) / len(times)
    if STYLE == "litert":
        say(f"Inference (avg):      {mean / 1000:.2f} ms")
        if flags["result_file_path"]:
            Path(flags["result_file_path"]).write_bytes(result(times, warmup, init_us, growth_kb))
        return 0
    say(
        f"Inference timings in us: Init: {init_us}, First inference: {warmup[0]}, "
        f"Warmup (avg): {number(sum(warmup) / len(warmup))}, Inference (avg): {number(mean)}"
    )
    say("Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual "
        "memory footprint of the model at runtime. Take the information at your discretion.")  # fmt: skip
    say(f"Memory footprint delta from the start of the tool (MB): init={number(growth_kb / 1024)} "
        f"overall={number(growth_kb / 1024)}")  # fmt: skip
    if flags["enable_op_profiling"] == "true" and flags["profiling_output_csv_file"]:
        first = table([("ModifyGraphWithDelegate", init_us, "ModifyGraphWithDelegate/0")])
        each = table([("TfLiteXNNPackDelegate", round(mean), "[class_scores, more]:7")])
        Path(flags["profiling_output_csv_file"]).write_text(
            f"Profiling Info for Benchmark Initialization:\n{first}\n"
            f"Operator-wise Profiling Info for Regular Benchmark Runs:\n{each}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
