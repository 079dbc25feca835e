"""Measuring one `.tflite` file on a phone, with `benchmark_model`."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.device import Device
from edgenas.device.agent import machine
from edgenas.errors import CheckFailedError, DeviceError
from edgenas.latency.profiling.benchmark_output import Benchmark
from edgenas.latency.profiling.inputs import Condition
from edgenas.latency.profiling.phone import MOST_MOVED_BUSY, PhoneBench
from edgenas.latency.profiling.rounds import LONGEST_WAIT_S, TRIES, median_interval
from edgenas.latency.steadiness import Steadiness, widened

PROCESSES = 5  # of the model, each between two of the reference


def measure_on_phone(
    model: Path,
    reference: Path,
    device: Device,
    runs: int,
    threads: int,
    every_ms: float | None,
    most_moved: float,
    waiting: Callable[[int, int], None],
    condition: Condition | None = None,
) -> dict[str, Any]:
    """Latency and memory of a model on a phone; the arguments are `measure_file`'s.

    Args:
        reference: what runs beside it.
        most_moved: share by which the reference may move.
        condition: which graph of the model, and at which sizes; None: its first, as the file has it.

    Returns:
        as `measure_file`, but `p90`, `p99` and `away` are None: benchmark_model does not tell them. `first` and
        `load_ms` are the middle of the processes', `peak_rss_growth_kb` the largest, None where it is not told, and
        `interrupted` the share of the processes with inferences that took far longer than the others. `delegated`:
        whether the delegate took "full", "partial" or "none" of the model, None where benchmark_model does not say.

    Raises:
        CheckFailedError: it is no valid model, or kills its process.
        DeviceError: unreachable, too disturbed to measure (the text says by what), or its benchmark_model cannot
            measure that graph at those sizes.
    """
    flags = [] if condition is None else condition.flags()
    with PhoneBench(device, threads) as bench:
        bench.refuse_unknown(flags)
        there, beside = bench.send(model, reference)
        for attempt in range(TRIES):
            found, references_us = _interleaved(bench, there, beside, math.ceil(runs / PROCESSES), every_ms, flags)
            moved = max(references_us) / min(references_us) - 1
            interrupted = float(np.mean([one.inference.disturbed for one in found]))
            if moved <= most_moved and interrupted < 0.5:
                return _summary(found, moved, Steadiness(False, interrupted))
            if attempt + 1 < TRIES:
                waiting(attempt + 1, TRIES)
                machine.sleep(min(2.0**attempt, LONGEST_WAIT_S))
        health = bench.phone.health()
    if interrupted < 1 and moved <= MOST_MOVED_BUSY:
        return _summary(found, moved, Steadiness(True, interrupted, float(moved > most_moved), health))
    raise DeviceError(
        f"{device.name} is too unsteady to measure: in the last of {TRIES} tries {interrupted:.0%} of the processes "
        f"had inferences that took far longer than the others, and the reference model moved by {moved:.0%} (at most "
        f"{MOST_MOVED_BUSY:.0%} is accepted). {health} Close what else runs there, or let it cool, and try again."
    )


def _interleaved(
    bench: PhoneBench, model: str, reference: str, runs: int, every_ms: float | None, flags: Sequence[str]
) -> tuple[list[Benchmark], list[float]]:
    """The model's processes, and what the reference took before, between and after them, microseconds."""
    found: list[Benchmark] = []
    references_us = [_run(bench, reference).inference.typical_us]
    for _ in range(PROCESSES):
        found.append(_run(bench, model, runs, every_ms, flags))
        references_us.append(_run(bench, reference).inference.typical_us)
    return found, references_us


def _run(
    bench: PhoneBench, model: str, runs: int = 50, every_ms: float | None = None, flags: Sequence[str] = ()
) -> Benchmark:
    visit = bench.visit(model, runs, every_ms, flags)
    if visit.found is None:
        raise CheckFailedError(f"{bench.device.name}: the model does not run there: {visit.failure}.")
    return visit.found


def _summary(found: list[Benchmark], moved: float, steadiness: Steadiness) -> dict[str, Any]:
    times = np.array([one.inference.typical_us for one in found if not one.inference.disturbed]) / 1000
    interval = widened(*median_interval(times), moved) if steadiness.disturbed else median_interval(times)
    growths_kb = [one.growth_kb for one in found if one.growth_kb is not None]
    return {
        "latency_ms": {
            "first": round(float(np.median([one.first_us for one in found])) / 1000, 4),
            "median": round(float(np.median(times)), 4),
            "p90": None,
            "p99": None,
            "ci95": [round(end, 4) for end in interval],
        },
        "steadiness": steadiness.grade,
        "busy_with": steadiness.busy or None,
        "peak_rss_growth_kb": round(max(growths_kb)) if growths_kb else None,
        "load_ms": round(float(np.median([one.init_us for one in found])) / 1000, 3),
        "interrupted": steadiness.interrupted,
        "away": None,
        "reference_moved": round(moved, 4),
        "delegated": found[0].delegated,
    }
