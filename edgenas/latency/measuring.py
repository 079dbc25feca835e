"""Measuring one `.tflite` file on a device; it needs nothing of a search."""

from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files
from edgenas.device import Device, connect
from edgenas.errors import DeviceError, InputError


def measure_file(model: Path, device: Device, runs: int = 200, threads: int = 1) -> dict[str, Any]:
    """Latency and memory of a model, in a process of its own on the device.

    Returns:
        `latency_ms` {first, median, p90, p99, ci95 of the median}, `peak_rss_growth_kb`, `load_ms`.

    Raises:
        InputError: there is no such file.
        CheckFailedError: it is no valid model, or kills its process.
        DeviceError: unreachable, or without the runtime.
    """
    if not model.is_file():
        raise InputError(f"There is no model {model}.")
    with connect(device) as connection, connection.open_agent() as agent:
        agent.runtime_version(device.runtime.package)
        remote = f"{connection.folder}/measure/{files.sha256(model)[:16]}.tflite"
        connection.put(model, remote)
        try:
            answer = agent.call(
                "single",
                timeout_s=300,
                model=remote,
                runs=runs,
                threads=threads,
                runtime=device.runtime.package,
                cores=device.runtime.cores,
            )
        finally:
            connection.run(["rm", "-f", remote])
    times = np.array(answer["times_us"], dtype=float) / 1000
    if len(times) != runs or not (np.isfinite(times).all() and (times > 0).all()):
        raise DeviceError("The device reported times that no clock gives; nothing was kept.")
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(times, (1000, runs)), axis=1)  # bootstrap
    return {
        "latency_ms": {
            "first": round(float(answer["first_us"]) / 1000, 4),
            "median": round(float(np.median(times)), 4),
            "p90": round(float(np.percentile(times, 90)), 4),
            "p99": round(float(np.percentile(times, 99)), 4),
            "ci95": [round(float(end), 4) for end in np.percentile(medians, [2.5, 97.5])],
        },
        "peak_rss_growth_kb": int(answer["peak_rss_growth_kb"]),
        "load_ms": round(float(answer["load_us"]) / 1000, 3),
    }
