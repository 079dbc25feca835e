"""What a latency table promises of a network on one device, and what was measured there."""

import contextlib
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture
from edgenas.device import Agent, Connection, Device, Phone, shares_host
from edgenas.errors import CheckFailedError, InputError
from edgenas.latency.profiling.anchors import anchors_of, state_of
from edgenas.latency.profiling.measuring import measure_there, reference_path, times_of
from edgenas.latency.profiling.rounds import Rounds, measure_rounds, median_interval
from edgenas.latency.steadiness import STEADY, Steadiness, widened
from edgenas.latency.table import LatencyTable, MissingLayersError
from edgenas.latency.table.certificate import Network
from edgenas.model import MODELS, ConversionPool, wait_for

COVERAGE = 0.9  # of the interval that a promise is
_RUNS = 100  # of a model without a table
_ONE_AT_A_TIME = threading.Lock()


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
        interval_ms: of the median, coverage 95%.
        normalised_ms: relative to the reference model and to networks of the table in the same rounds, so that the
            device's drift is out of it, in the table's milliseconds; None without a table of this device.
        steadiness: of the device meanwhile.
    """

    median_ms: float
    p90_ms: float
    interval_ms: tuple[float, float]
    normalised_ms: float | None
    steadiness: Steadiness = STEADY


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


def files_beside(table: LatencyTable | None, anchors: Sequence[Network]) -> list[Path]:
    """The `.tflite` files to measure beside, converted where they are not there yet: a table's reference model and its
    anchors, or without a table the reference of any model."""
    if table is None:
        return [reference_path()]
    networks = [table.reference[0], *(anchor.notation for anchor in anchors)]
    with ConversionPool(MODELS, table.precision) as pool:
        return wait_for(pool.submit([Architecture.parse(notation) for notation in networks]))


def room_beside(table: LatencyTable | None) -> int:
    """Bytes that the files measured beside a model take on a device: in one archive, and then each by itself."""
    return 2 * sum(path.stat().st_size for path in files_beside(table, [] if table is None else anchors_of(table)))


def measure_in_place(
    connection: Connection, agent: Agent, table: LatencyTable | None, model: str, scratch: str, threads: int = 1
) -> Measured:
    """Time a model on a device beside a reference model, under the gates of the profiler.

    Args:
        table: of this device: the times are then in its milliseconds too.
        model: its path on the device.
        scratch: a folder there for the reference model.
        threads: of one inference; a table has its own.

    Raises:
        CheckFailedError: the model does not run there.
        DeviceError: the link broke, the device is too disturbed, or a time that no clock gives.
    """
    anchors = [] if table is None else anchors_of(table)
    reference, *beside = _send_beside(connection, agent, table, anchors, scratch)
    # Devices that are this very machine (containers, servers of tests) take turns.
    with _ONE_AT_A_TIME if shares_host(agent.info) else contextlib.nullcontext():
        agent.lock()
        if table is None:
            answer = measure_there(agent, model, reference, _RUNS, threads)
            return _measured(*times_of(answer), None, answer["steadiness"])
        identity = table.identity
        rounds = measure_rounds(
            agent,
            [model, *beside],
            reference,
            runtime=identity.runtime,
            threads=identity.threads,
            cores=identity.cores,
        )
    return measured_beside(agent.device, table, anchors, rounds)


def measured_beside(device: Device, table: LatencyTable | None, anchors: Sequence[Network], rounds: Rounds) -> Measured:
    """What rounds of a model, and of a table's anchors after it, say of the model.

    Raises:
        CheckFailedError: one of them does not run there.
    """
    for index, ratio in enumerate(rounds.ratios):
        if ratio is None:
            what = "the model" if index == 0 else "a network of the table"
            raise CheckFailedError(f"{device.name}: {what} does not run there: {rounds.failed[index]}.")
    own, *others = (ratio for ratio in rounds.ratios if ratio is not None)
    times_ms, found = rounds.visits_us[0] / 1000, rounds.steadiness
    interval = median_interval(times_ms)
    if found.disturbed:
        interval = widened(*interval, max(own.half_width, rounds.slowed))
    if table is None:
        return _measured(times_ms, interval, None, found)
    state = state_of(table, anchors, others)
    return _measured(times_ms, interval, own.value * table.reference[1] / 1000 / state, found)


def _send_beside(
    connection: Connection, agent: Agent, table: LatencyTable | None, anchors: Sequence[Network], scratch: str
) -> list[str]:
    """The paths on the device of the reference model and of the anchors."""
    files = files_beside(table, anchors)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "beside.zip"
        with zipfile.ZipFile(archive, "w") as content:
            for number, path in enumerate(files):
                content.write(path, f"beside_{number}.tflite")
        connection.put(archive, f"{scratch}/beside.zip")
    agent.call("unpack", archive=f"{scratch}/beside.zip", folder=scratch)
    return [f"{scratch}/beside_{number}.tflite" for number in range(len(files))]


def _measured(
    times_ms: npt.NDArray[np.float64], interval: tuple[float, float], normalised_ms: float | None, found: Steadiness
) -> Measured:
    median, p90 = np.percentile(times_ms, [50, 90])
    return Measured(float(median), float(p90), interval, normalised_ms, found)
