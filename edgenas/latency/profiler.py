"""The profiler: from a space and a device to a latency table with a certificate."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files
from edgenas.architecture import Architecture, Dense, Input, Layer
from edgenas.device import Agent, Connection, Device, connect, shares_host
from edgenas.errors import DeviceError
from edgenas.latency.calibration import FEATURES, Calibration, choose_networks, fit, sum_features
from edgenas.latency.certificate import Certificate, Network
from edgenas.latency.rounds import Ratio, Rounds, measure_rounds
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.ledger import Ledger
from edgenas.model import MODELS, ConversionPool, Precision, converter_version
from edgenas.space import MobileSpace

# Classifiers are measured for these numbers of classes; between them their cost is linear.
CLASSES = (2, 10, 100, 1000)
# Whole networks: to fit the calibration, to give intervals their width, to test both.
CALIBRATION_NETWORKS, INTERVAL_NETWORKS, CERTIFICATE_NETWORKS = 30, 50, 40
BATCH = 100
EMPTY = Layer(Input((1, 1, 1)), ((1, 1, 1),))
# The least cost an entry can have: what is left of a layer that the runtime folds away.
LEAST_US = 0.01

Progress = Callable[[str, int, int], None]  # (what is being done, done, of)


def no_progress(what: str, done: int, total: int) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Plan:
    """What a profile measures.

    Attributes:
        layers: every layer that the space can produce, its classifier for several numbers of classes.
        calibration, intervals, certificate: whole networks; see `Calibration` and `Certificate`.
        reference: the network of every round.
    """

    layers: tuple[Layer, ...]
    calibration: tuple[Architecture, ...]
    intervals: tuple[Architecture, ...]
    certificate: tuple[Architecture, ...]
    reference: Architecture

    @property
    def networks(self) -> tuple[Architecture, ...]:
        """All whole networks, those for calibration first."""
        return self.calibration + self.intervals + self.certificate


def plan_profile(space: MobileSpace, seed: int = 0, classes: Sequence[int] = CLASSES) -> Plan:
    """Layers and networks to measure for a space.

    The calibration's networks are chosen to tell most, the others drawn at random.
    """
    layers = list(space.layers())
    for count in sorted({*classes, space.classes}):
        layers += [layer for layer in space.with_classes(count).layers() if isinstance(layer.block, Dense)]
    rng = np.random.default_rng(seed)
    calibration = choose_networks(space.decode_codes(space.sample(rng, 500)), CALIBRATION_NETWORKS)
    reference = space.decode({name: options[len(options) // 2] for name, options in space.choices.items()})
    count = INTERVAL_NETWORKS + CERTIFICATE_NETWORKS
    drawn = dict.fromkeys(space.decode_codes(space.sample(rng, 2 * count)))
    others = [network for network in drawn if network not in calibration][:count]
    return Plan(
        tuple(dict.fromkeys(layers)),
        calibration,
        tuple(others[:INTERVAL_NETWORKS]),
        tuple(others[INTERVAL_NETWORKS:]),
        reference,
    )


def table_name(device: Device, space: MobileSpace, precision: str, threads: int) -> str:
    """The name under which a profile is saved."""
    shape = "x".join(map(str, space.input_shape))
    parts = [device.name, space.name, shape, precision, f"t{threads}"]
    if device.runtime.package != "ai-edge-litert":
        parts.append(device.runtime.package)
    if space.activation != "relu6":
        parts.append(space.activation)
    return "-".join(parts)


def profile(
    device: Device,
    space: MobileSpace,
    precision: Precision,
    threads: int = 1,
    *,
    classes: Sequence[int] = CLASSES,
    seed: int = 0,
    progress: Progress = no_progress,
) -> LatencyTable:
    """Measure every layer of a space on a device, calibrate and certify, and save the table.

    A session that was cut goes on where it was: converted files and measured batches are kept under
    `.edgenas/profiles/` of the current folder until the table is saved.

    Args:
        device: where to measure.
        space: for one input size.
        precision: "float32" or "int8".
        threads: of one inference.
        classes: numbers of classes that the classifier is measured for.
        progress: called with what is done, how much of how much.

    Raises:
        DeviceError: unreachable, without the runtime, or too unsteady to measure on.
    """
    started = time.monotonic()
    name = table_name(device, space, precision, threads)
    plan = plan_profile(space, seed, classes)
    with connect(device) as connection, connection.open_agent() as agent:
        agent.lock()
        identity = _identify(device, agent, precision, threads)
        session = _Session(Path(".edgenas") / "profiles" / name, identity, plan, connection, agent, progress)
        session.run()
        table = session.table(space)
    wall_s = round(time.monotonic() - started, 1)
    table.provenance.update(wall_s=wall_s, space=space.name, input="x".join(map(str, space.input_shape)))
    path = Path("latency_tables") / f"{name}.json"
    table.save(path)
    shutil.rmtree(session.folder, ignore_errors=True)
    Ledger(Path(".edgenas") / "ledger.jsonl").append("profiled", table=name, **table.provenance)
    return table


def _identify(device: Device, agent: Agent, precision: str, threads: int) -> Identity:
    info = agent.info
    version = agent.runtime_version(device.runtime.package)
    delegate = "XNNPACK" if device.runtime.package == "ai-edge-litert" or precision == "float32" else "none"
    return Identity(
        device=device.name,
        fingerprint=info.fingerprint,
        cpu=info.cpu,
        cpu_cores=info.cores,
        memory_mb=round(info.memory_total_kb / 1024),
        os=info.os,
        kernel=info.kernel,
        firmware=info.firmware or "",
        governor=info.governor or "",
        runtime=device.runtime.package,
        runtime_version=version,
        delegate=delegate,
        threads=threads,
        cores=device.runtime.cores,
        precision=precision,
        converter=converter_version(),
    )


class _Session:
    """One profiling session, resumable: what is converted and measured lies in its folder."""

    def __init__(
        self, folder: Path, identity: Identity, plan: Plan, connection: Connection, agent: Agent, progress: Progress
    ) -> None:
        self.folder = folder
        self._identity = identity
        self._plan = plan
        self._connection = connection
        self._agent = agent
        self._progress = progress
        self._shared = shares_host(agent.info)
        self._journal = _Journal(folder, files.as_mapping(identity) | {"reference": str(plan.reference)})
        self._conversion_s = 0.0
        self._expected_us: float | None = None
        self._remote = f"{connection.folder}/profile"

    def run(self) -> None:
        """Measure what the journal lacks."""
        subjects: list[tuple[str, Layer | Architecture]] = [(str(layer), layer) for layer in self._plan.layers]
        batches = [subjects[start : start + BATCH] for start in range(0, len(subjects), BATCH)]
        # Whole networks are measured twice, before the layers and after: what they differ by is the noise floor.
        networks: list[tuple[str, Layer | Architecture]] = [(f"first {n}", n) for n in self._plan.networks]
        again: list[tuple[str, Layer | Architecture]] = [(f"again {n}", n) for n in self._plan.networks]
        todo = [[job for job in batch if job[0] not in self._journal.ratios] for batch in (networks, *batches, again)]
        todo = [batch for batch in todo if batch]
        total, done = sum(map(len, todo)), 0
        if not todo:
            return
        self._connection.run(["mkdir", "-p", self._remote])
        try:
            with ConversionPool(MODELS, _precision(self._identity)) as pool:
                for batch, paths in self._converted(pool, todo):
                    self._progress("measuring", done, total)
                    self._measure(batch, paths)
                    done += len(batch)
                    self._progress("measuring", done, total)
        finally:
            with contextlib.suppress(DeviceError):  # a link that broke has said so already
                self._connection.run(["rm", "-rf", self._remote])

    def _converted(
        self, pool: ConversionPool, todo: Sequence[Sequence[tuple[str, Layer | Architecture]]]
    ) -> Iterator[tuple[Sequence[tuple[str, Layer | Architecture]], list[Path]]]:
        """Batches as they become ready. While one is measured the next is converted, on a device of its own; a
        device that shares the host's cores is measured only while the host is idle."""
        jobs = pool.submit([subject for _, subject in todo[0]] + [self._plan.reference, EMPTY])
        for index, batch in enumerate(todo):
            start = time.monotonic()
            self._progress("converting", 0, len(jobs))
            for count, (_, future) in enumerate(jobs, start=1):
                if future is not None:
                    wait([future])
                    future.result()
                    self._progress("converting", count, len(jobs))
            self._conversion_s += time.monotonic() - start
            paths = [path for path, _ in jobs]
            following = [subject for _, subject in todo[index + 1]] if index + 1 < len(todo) else []
            following += [self._plan.reference, EMPTY]
            if not self._shared:
                jobs = pool.submit(following)
            yield batch, paths
            if self._shared:
                jobs = pool.submit(following)

    def _measure(self, batch: Sequence[tuple[str, Layer | Architecture]], paths: list[Path]) -> None:
        *models, reference, empty = self._send(paths)
        rounds = self._rounds([*models, empty], reference)
        *ratios, empty_ratio = rounds.ratios
        if empty_ratio is None:
            raise DeviceError(f"The empty model does not run on the device: {rounds.failed[len(models)]}.")
        lines: list[dict[str, Any]] = []
        for index, ((key, _), ratio) in enumerate(zip(batch, ratios, strict=True)):
            if ratio is None:
                raise DeviceError(f"{key} does not run on the device: {rounds.failed[index]}.")
            lines.append({"key": key, **files.as_mapping(ratio)})
        self._expected_us = self._expected_us or rounds.reference_us
        self._journal.add(lines, {
            "reference_us": rounds.reference_us, "empty": empty_ratio.value, "busy_s": rounds.busy_s,
            "visits": rounds.visits, "interrupted": rounds.interrupted, "drifted": rounds.drifted,
        })  # fmt: skip

    def _rounds(self, models: list[str], reference: str) -> Rounds:
        return measure_rounds(
            self._agent,
            models,
            reference,
            runtime=self._identity.runtime,
            threads=self._identity.threads,
            cores=self._identity.cores,
            expected_us=self._expected_us,
            waiting=lambda attempt, tries: self._progress("waiting: the device is disturbed", attempt, tries),
        )

    def _send(self, paths: list[Path]) -> list[str]:
        """The files on the device, under names of their own content's."""
        remote = []
        for path in paths:
            remote.append(f"{self._remote}/{path.name}")
            if path.name not in self._journal.sent:
                self._connection.put(path, remote[-1])
                self._journal.sent.add(path.name)
        return remote

    def table(self, space: MobileSpace) -> LatencyTable:
        """The table of all that was measured."""
        sessions = self._journal.sessions
        reference_us = float(np.median([session["reference_us"] for session in sessions]))
        empty_us = float(np.median([session["empty"] for session in sessions])) * reference_us
        ratios = self._journal.ratios
        entries = {}
        for layer in self._plan.layers:
            ratio = ratios[str(layer)]
            us = max(ratio.value * reference_us - empty_us, LEAST_US)
            entries[layer] = Entry(round(us, 4), round(ratio.half_width, 4), round(ratio.first_us, 1))
        raw = LatencyTable(
            identity=self._identity,
            source="measured",
            reference=(str(self._plan.reference), reference_us),
            empty_us=empty_us,
            entries=entries,
            provenance={
                "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "sessions": self._journal.begun,
                "device_busy_s": round(sum(session["busy_s"] for session in sessions), 1),
                "conversion_s": round(self._conversion_s, 1),
                "visits": sum(session["visits"] for session in sessions),
                "interrupted": sum(session["interrupted"] for session in sessions),
                "drifted": sum(session["drifted"] for session in sessions),
            },
        )
        calibrated = calibrated_on(raw, self._networks(self._plan.calibration, reference_us))
        certificate = Certificate(
            *(
                with_predictions(calibrated, self._networks(networks, reference_us))
                for networks in (self._plan.certificate, self._plan.intervals)
            )
        )
        return dataclasses.replace(calibrated, certificate=certificate)

    def _networks(self, networks: Sequence[Architecture], reference_us: float) -> tuple[Network, ...]:
        """Networks as measured, without a prediction yet."""
        found = []
        for network in networks:
            first, again = (self._journal.ratios[f"{when} {network}"].value for when in ("first", "again"))
            found.append(Network(str(network), first * reference_us / 1000, again * reference_us / 1000, float("nan")))
        return tuple(found)


def calibrated_on(raw: LatencyTable, networks: tuple[Network, ...]) -> LatencyTable:
    """A table with a calibration fitted on whole networks."""
    parsed = [Architecture.parse(network.notation) for network in networks]
    sums = np.array([sum_features(network, raw.layer_us) for network in parsed])
    truth_us = np.array([network.truth_ms * 1000 for network in networks])
    coefficients, offset_us = fit(sums, truth_us)
    named = dict(zip(FEATURES, map(float, coefficients), strict=True))
    table = dataclasses.replace(raw, calibration=Calibration(named, offset_us))
    fitted = Calibration(named, offset_us, with_predictions(table, networks))
    return dataclasses.replace(table, calibration=fitted)


def with_predictions(table: LatencyTable, networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Networks with what a table predicts for them."""
    predicted = table.estimate_ms([Architecture.parse(network.notation) for network in networks])
    return tuple(
        dataclasses.replace(network, predicted_ms=float(ms)) for network, ms in zip(networks, predicted, strict=True)
    )


def _precision(identity: Identity) -> Precision:
    return "int8" if identity.precision == "int8" else "float32"


class _Journal:
    """What a session has measured so far, one JSON line a batch; a session of another identity starts anew."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._path = folder / "measured.jsonl"
        self.sent: set[str] = set()
        self.ratios: dict[str, Ratio] = {}
        self.sessions: list[dict[str, float]] = []
        ledger = Ledger(self._path)
        begun = ledger.entries("session")
        if begun and begun[0]["identity"] != identity:
            shutil.rmtree(folder)
            begun = []
        ledger.append("session", identity=identity)
        self.begun = len(begun) + 1
        for entry in ledger.entries("batch"):
            self._take(entry["lines"], entry["session"])

    def add(self, lines: list[dict[str, Any]], session: dict[str, float]) -> None:
        Ledger(self._path).append("batch", lines=lines, session=session)
        self._take(lines, session)

    def _take(self, lines: list[dict[str, Any]], session: dict[str, float]) -> None:
        for line in lines:
            self.ratios[line["key"]] = Ratio(line["value"], line["half_width"], line["first_us"])
        self.sessions.append(session)
