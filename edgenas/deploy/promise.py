"""What a latency table promises of a network on one device, and what was measured there."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.device import Agent, Connection, Phone
from edgenas.errors import CheckFailedError, DeviceError, InputError
from edgenas.latency.profiling.rounds import measure_rounds
from edgenas.latency.table import LatencyTable, MissingLayersError
from edgenas.model import convert_network

COVERAGE = 0.9  # of the interval that a promise is
_RUNS = 100  # of a model measured alone


@dataclass(frozen=True)
class Promise:
    """What may be expected of a network on a device.

    Attributes:
        predicted_ms: None where nothing predicts it.
        highest_ms: the upper end of its interval; None where nothing backs a promise.
        gap: why there is no promise; None where there is one.
    """

    predicted_ms: float | None
    highest_ms: float | None
    gap: str | None

    def kept(self, latency_ms: float | None) -> bool | None:
        """Whether a latency keeps it; None where there is nothing to keep."""
        return None if latency_ms is None or self.highest_ms is None else latency_ms <= self.highest_ms


@dataclass(frozen=True)
class Measured:
    """Times of one model on a device, ms.

    Attributes:
        median_ms, p90_ms: as the clock showed them.
        normalised_ms: relative to the reference model in the same rounds, so that the device's drift is out of it, in
            the table's milliseconds; None without a table of this device.
    """

    median_ms: float
    p90_ms: float
    normalised_ms: float | None


def promise(table: LatencyTable | None, architecture: Architecture, agent: Agent | Phone) -> Promise:
    """What `table` promises of a network on the device that the agent is on, or on a phone."""
    if table is None:
        return Promise(None, None, "no latency table was given")
    try:
        predicted_ms = float(table.estimate_ms([architecture])[0])
    except MissingLayersError as error:
        return Promise(None, None, str(error).rstrip("."))
    identity, info = table.identity, agent.info
    version = agent.runtime_version(agent.device.runtime.package)
    if identity.fingerprint != info.fingerprint:
        gap = (
            f"the table was measured on another device or system (fingerprint {identity.fingerprint}, this one's is "
            f"{info.fingerprint}): profile {agent.device.name}"
        )
    elif identity.runtime_version != version:
        gap = f"the table was measured with {identity.runtime} {identity.runtime_version}, the device has {version}"
    elif identity.cores != agent.device.runtime.cores:
        gap = f"the table was measured on cores {identity.cores}, the device's are {agent.device.runtime.cores}"
    elif table.doubt is not None:
        gap = table.doubt
    else:
        try:
            return Promise(predicted_ms, float(table.interval_ms([architecture], COVERAGE)[1][0]), None)
        except InputError as error:
            gap = str(error).rstrip(".")
    return Promise(predicted_ms, None, gap)


def measure_beside_reference(
    connection: Connection, agent: Agent, table: LatencyTable, model: str, scratch: str
) -> Measured:
    """Time a model in interleaved rounds with the table's reference model.

    Args:
        model: its path on the device.
        scratch: a folder there for the reference model.

    Raises:
        CheckFailedError: the model does not run there.
        DeviceError: the link broke, or a time that no clock gives.
    """
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "reference.tflite"
        files.write_atomically(local, reference_model(table))
        connection.put(local, f"{scratch}/reference.tflite")
    agent.lock()
    identity = table.identity
    rounds = measure_rounds(
        agent,
        [model],
        f"{scratch}/reference.tflite",
        runtime=identity.runtime,
        threads=identity.threads,
        cores=identity.cores,
    )
    ratio = rounds.ratios[0]
    if ratio is None:
        raise CheckFailedError(f"{agent.device.name}: the model does not run there: {rounds.failed[0]}.")
    median, p90 = np.percentile(rounds.visits_us[0], [50, 90]) / 1000
    return Measured(float(median), float(p90), ratio.value * table.reference[1] / 1000)


def measure_alone(agent: Agent, model: str, threads: int) -> Measured:
    """Time a model alone, in a fresh process on the device.

    Raises:
        CheckFailedError: the model does not run there.
        DeviceError: the link broke, or a time that no clock gives.
    """
    agent.lock()
    runtime = agent.device.runtime
    answer = agent.call(
        "single", timeout_s=300, model=model, runs=_RUNS, threads=threads, runtime=runtime.package, cores=runtime.cores
    )
    try:
        return _measured(answer["times_us"])
    except (KeyError, TypeError) as error:
        raise DeviceError(f"{agent.device.name}: its answer to 'single' makes no sense: {error!r}.") from None


def reference_model(table: LatencyTable) -> bytes:
    """The `.tflite` file of the table's reference network, with random weights."""
    return convert_network(Architecture.parse(table.reference[0]), table.precision)


def _measured(times_us: Any) -> Measured:
    try:
        times = np.array(times_us, dtype=float)
    except (TypeError, ValueError):
        times = np.array([])
    if times.ndim != 1 or not times.size or not (np.isfinite(times).all() and (times > 0).all()):
        raise DeviceError("The device reported a time that is not positive and finite; nothing was kept.")
    median, p90 = np.percentile(times, [50, 90]) / 1000
    return Measured(float(median), float(p90), None)
