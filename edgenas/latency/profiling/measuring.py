"""Measuring one `.tflite` file on a device; it needs nothing of a search."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.device import Agent, Device, connect, open_agent
from edgenas.device.agent import machine
from edgenas.errors import DeviceError, InputError
from edgenas.latency.profiling.bench import refuse_threads
from edgenas.latency.profiling.inputs import Condition, Sizes, condition_of
from edgenas.latency.profiling.phone_measuring import measure_on_phone
from edgenas.latency.profiling.rounds import LONGEST_WAIT_S, SILENCE_S, TRIES, Values, median_interval
from edgenas.latency.steadiness import Steadiness, slowed, widened
from edgenas.model import MODELS, ConversionPool

# What runs beside the model and tells whether the device keeps still: a small network of every kind of block.
REFERENCE = Architecture.parse(
    "input_32x32x3 conv_k3_s2_c16_relu6 mbconv_k3_e3_s1_c16_relu6 mbconv_k5_e3_s2_c24_relu6 "
    "mbconv_k3_e6_s1_c24_se0.25_relu6 head_c64_relu6 dense_n10"
)
# A measurement counts when other processes had the cores for at most this share of its time, and the reference's times
# spread (interquartile range / median) and moved (last third against the first) by at most this share.
MOST_AWAY, MOST_MOVED = 0.03, 0.12
# A processor that sleeps between inferences wakes at one speed or another.
MOST_MOVED_ASLEEP = 0.4
# A busy device is measured by the inferences that did not lose their core, where there are so many of them.
LEAST_CLEAN = 0.1


def measure_file(
    model: Path,
    device: Device,
    runs: int = 200,
    threads: int = 1,
    every_ms: float | None = None,
    waiting: Callable[[int, int], None] = lambda attempt, tries: None,
    shapes: Mapping[str, Sizes] | None = None,
    signature: str | None = None,
) -> dict[str, Any]:
    """Latency and memory of a model, in a process of its own on the device.

    Args:
        model: any `.tflite` file.
        device: where.
        runs: inferences after the first few.
        threads: of one inference.
        every_ms: begin one inference every so many ms and sleep between them, as behind a camera; None: one after the
            other.
        waiting: told (attempt, of) before each wait for a device that is disturbed.
        shapes: sizes of inputs that the file leaves open, by name; an open first size is 1 unless it is named.
        signature: which of the model's is measured; needed where there are several.

    Returns:
        `measured`, what the rest holds for: {signature, inputs: {name: sizes}, threads, runs, every_ms};
        `latency_ms` {first, median, p90, p99, ci95 of the median}, `peak_rss_growth_kb`, `load_ms`; `interrupted`, the
        share of inferences that lost their core, and `away`, of the time; `reference_moved`, by which share the
        reference model beside it did; `late`, the share of inferences that the one before left no time for. On a phone
        what `measure_on_phone` can tell of this.

    Raises:
        InputError: there is no such file, input or signature, an input is left open, or more threads than cores.
        CheckFailedError: it is no valid model, or kills its process.
        DeviceError: unreachable, without the runtime, or too disturbed to measure; the text says by what.
    """
    if not model.is_file():
        raise InputError(f"There is no model {model}.")
    condition = condition_of(model, shapes, signature)
    told = {"signature": None, "inputs": {}} if condition is None else condition.told()
    measured = {"measured": told | {"threads": threads, "runs": runs, "every_ms": every_ms}}
    refuse_threads(device, threads)
    reference = reference_path()
    if device.address.kind == "adb":
        most_moved = MOST_MOVED if every_ms is None else MOST_MOVED_ASLEEP
        return measured | measure_on_phone(
            model, reference, device, runs, threads, every_ms, most_moved, waiting, condition
        )
    with connect(device) as connection, open_agent(connection) as agent:
        agent.runtime_version(device.runtime.package)
        agent.lock()
        folder = f"{connection.folder}/measure"
        remote, beside = f"{folder}/{files.sha256(model)[:16]}.tflite", f"{folder}/reference.tflite"
        try:
            connection.put(model, remote)
            connection.put(reference, beside)
            answer = measure_there(agent, remote, beside, runs, threads, every_ms, waiting, condition)
        finally:
            with contextlib.suppress(DeviceError):  # a link that broke has said so already
                connection.run(["rm", "-rf", folder])
    return measured | _summary(answer)


def _summary(answer: dict[str, Any]) -> dict[str, Any]:
    times, interval = times_of(answer)
    return {
        "latency_ms": {
            "first": round(float(answer["first_us"]) / 1000, 4),
            "median": round(float(np.median(times)), 4),
            "p90": round(float(np.percentile(times, 90)), 4),
            "p99": round(float(np.percentile(times, 99)), 4),
            "ci95": [round(end, 4) for end in interval],
        },
        "steadiness": answer["steadiness"].grade,
        "busy_with": answer["steadiness"].busy or None,
        "peak_rss_growth_kb": int(answer["peak_rss_growth_kb"]),
        "load_ms": round(float(answer["load_us"]) / 1000, 3),
        "interrupted": float(np.mean(answer["lost"])),
        "away": round(float(answer["away"]), 4),
        "reference_moved": round(_moved(answer), 4),
        "late": round(float(answer["late"]), 4),
    }


def times_of(answer: dict[str, Any]) -> tuple[Values, tuple[float, float]]:
    """What inferences took, ms [runs], and the interval of their median.

    Of a device that was disturbed those that kept their core, and an interval that is wider by what the reference model
    beside them moved, and reaches down to what they would take while that is at its fastest.
    """
    times = np.array(answer["times_us"], dtype=float) / 1000
    if not answer["steadiness"].disturbed:
        return times, median_interval(times)
    times = times[~np.array(answer["lost"], dtype=bool)]
    return times, widened(*median_interval(times), max(_moved(answer), slowed(answer["reference_us"])))


def reference_path() -> Path:
    """The `.tflite` file of the reference, made where it is not there yet."""
    with ConversionPool(MODELS, "float32") as pool:
        return pool.path(REFERENCE)


def measure_there(
    agent: Agent,
    model: str,
    reference: str,
    runs: int,
    threads: int,
    every_ms: float | None = None,
    waiting: Callable[[int, int], None] = lambda attempt, tries: None,
    condition: Condition | None = None,
) -> dict[str, Any]:
    """What the agent's `single` says of a model on the device, once nothing disturbs it, or as it is; checked.

    `steadiness` is added.

    Args:
        model, reference: paths there.
        runs, threads, every_ms, waiting: see `measure_file`.
        condition: which graph of the model, and at which sizes; None: its first, as the file has it.

    Raises:
        CheckFailedError: it is no valid model, or kills its process.
        DeviceError: nearly every inference lost its core; the text says to what.
        InputError: more threads than cores.
    """
    runtime = agent.device.runtime
    refuse_threads(agent.device, threads)
    most_moved = MOST_MOVED if every_ms is None else MOST_MOVED_ASLEEP
    for attempt in range(TRIES):
        answer: dict[str, Any] = agent.call(
            "single",
            timeout_s=SILENCE_S,
            model=model,
            runs=runs,
            threads=threads,
            runtime=runtime.package,
            cores=runtime.cores,
            reference=reference,
            every_us=(every_ms or 0) * 1000,
            **({} if condition is None else condition.for_agent()),
        )
        _check(answer, runs)
        if condition is not None:
            condition.check(agent.device.name, answer)
        away, moved = float(answer["away"]), _moved(answer)
        if away <= MOST_AWAY and moved <= most_moved:
            return answer | {"steadiness": Steadiness(False, float(np.mean(answer["lost"])), 0.0)}
        if attempt + 1 < TRIES:
            waiting(attempt + 1, TRIES)
            machine.sleep(min(2.0**attempt, LONGEST_WAIT_S))
    lost = float(np.mean(answer["lost"]))
    if lost <= 1 - LEAST_CLEAN:
        return answer | {"steadiness": Steadiness(True, lost, float(moved > most_moved), agent.health())}
    raise DeviceError(
        f"{agent.device.name} is too unsteady to measure: in the last of {TRIES} tries {lost:.0%} of the inferences "
        f"lost their core to another process, which had it for {away:.0%} of the time. {agent.health()} Stop what else "
        "runs there, or let it cool, and try again."
    )


def _check(answer: dict[str, Any], runs: int) -> None:
    """Raise `DeviceError` for what no clock gives."""
    try:
        times = np.array([*answer["times_us"], answer["first_us"], answer["load_us"], *answer["reference_us"]], float)
        good = len(answer["times_us"]) == len(answer["lost"]) == runs and len(answer["reference_us"]) > 1
        shares = np.array([*answer["lost"], answer["away"], answer["late"]], float)
        good = good and bool(((shares >= 0) & (shares <= 1)).all())
        good = good and 0 <= int(answer["peak_rss_growth_kb"]) < 1 << 40
    except (KeyError, TypeError, ValueError, OverflowError):
        good, times = False, np.empty(0)
    if not (good and np.isfinite(times).all() and (times > 0).all()):
        raise DeviceError("The device reported times or sizes that cannot be; nothing was kept.")


def _moved(answer: dict[str, Any]) -> float:
    """By how much the reference model's time spread or drifted, as a share."""
    times = np.array(answer["reference_us"], dtype=float)
    low, middle, high = np.percentile(times, [25, 50, 75])
    third = max(1, len(times) // 3)
    drift = abs(float(np.median(times[-third:]) / np.median(times[:third])) - 1)
    return max(float((high - low) / middle), drift)
