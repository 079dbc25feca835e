"""The profiler: from a space and one device or several of a kind to a latency table with a certificate."""

import collections
import dataclasses
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files
from edgenas.architecture import Architecture, Input, Layer
from edgenas.device import Device
from edgenas.errors import CheckFailedError, DeviceError
from edgenas.latency.profiling.adopting import Donor, find_donor
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.profiling.benches import AnyBench, identify, open_benches
from edgenas.latency.profiling.journal import Journal
from edgenas.latency.profiling.planning import Plan, plan_profile
from edgenas.latency.profiling.rounds import HALF_WIDTH, Ratio, Rounds
from edgenas.latency.profiling.siblings import mean_of, stranger, stranger_by_times
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.certificate import Certificate, Network
from edgenas.latency.table.fitting import calibrated_on, with_predictions
from edgenas.ledger import Ledger
from edgenas.model import MODELS, ConversionPool, Jobs, Precision, wait_for
from edgenas.space import MobileSpace

BATCH = 100
EMPTY = Layer(Input((1, 1, 1)), ((1, 1, 1),))
# The least cost an entry can have: what is left of a layer that the runtime folds away.
LEAST_US = 0.01

Subject = Layer | Architecture
Job = tuple[str, Subject]  # its key in the journal


def table_name(device: Device, space: MobileSpace, precision: str, threads: int) -> str:
    """The name under which a profile is saved."""
    shape = "x".join(map(str, space.input_shape))
    parts = [device.name, space.name, shape, precision, f"t{threads}"]
    if device.runtime.package == "tflite-runtime":
        parts.append(device.runtime.package)
    if device.runtime.delegate not in (None, "xnnpack"):
        parts.append(str(device.runtime.delegate))
    if space.activation != "relu6":
        parts.append(space.activation)
    return "-".join(parts)


def profile(
    devices: Device | Sequence[Device],
    space: MobileSpace,
    precision: Precision,
    threads: int = 1,
    *,
    plan: Plan | None = None,
    progress: Progress = no_progress,
) -> LatencyTable:
    """Measure every layer of a space on a device, calibrate and certify, and save the table.

    Several devices of one kind share the work. Each measures the calibration's networks; one that does not behave like
    its siblings is left out, and what one that dies had in hand goes to the others. Each that stayed gets the table.

    A session that was cut goes on where it was: converted files and measured batches are kept under
    `.edgenas/profiles/` of the current folder until the table is saved.

    Args:
        devices: where to measure.
        space: for one input size.
        precision: "float32" or "int8".
        threads: of one inference.
        plan: what to measure; None: what `plan_profile` gives.
        progress: called with what is done, how much of how much.

    Returns:
        the table of the first device that stayed.

    Raises:
        CheckFailedError: a model does not run there.
        DeviceError: unreachable, without the runtime, being measured by somebody else, or too disturbed.
    """
    started = time.monotonic()
    given = [devices] if isinstance(devices, Device) else list(devices)
    plan = plan or plan_profile(space)
    with ExitStack() as stack:
        benches, unreached = open_benches(given, threads, progress, stack)
        identity = dataclasses.replace(identify(benches[0], precision, threads), device=given[0].name)
        folder = Path(".edgenas") / "profiles" / table_name(given[0], space, precision, threads)
        session = _Session(folder, identity, plan, benches, progress)
        session.left_out.update(unreached)
        session.run()
    table = session.table()
    stayed = [bench.device for bench in session.benches]
    table.provenance.update(
        wall_s=round(time.monotonic() - started, 1),
        start_s=round(max(bench.start_s for bench in benches), 1),
        sending_s=round(sum(bench.sending_s for bench in benches), 1),
        space=space.name,
        input="x".join(map(str, space.input_shape)),
        devices=[device.name for device in stayed],
        left_out=session.left_out,
    )
    made = [_save(table, device, space) for device in stayed]
    shutil.rmtree(folder, ignore_errors=True)
    return made[0]


def _save(table: LatencyTable, device: Device, space: MobileSpace) -> LatencyTable:
    """The table as one of the devices' own, saved."""
    name = table_name(device, space, table.precision, table.identity.threads)
    own = dataclasses.replace(table, identity=dataclasses.replace(table.identity, device=device.name))
    own.save(Path("latency_tables") / f"{name}.json")
    Ledger(Path(".edgenas") / "ledger.jsonl").append("profiled", table=name, **table.provenance)
    return own


class _Session:
    """One profiling session, resumable: what is converted and measured lies in its folder.

    Attributes:
        benches: the devices that are still in it.
        left_out: name -> why, of those that are not.
    """

    def __init__(
        self, folder: Path, identity: Identity, plan: Plan, benches: Sequence[AnyBench], progress: Progress
    ) -> None:
        self._identity = identity
        self._precision: Precision = "int8" if identity.precision == "int8" else "float32"
        self._plan = plan
        self.benches = list(benches)
        self.left_out: dict[str, str] = {}
        self.donor: Donor | None = None
        self.adopted: dict[Layer, float] = {}  # ratio to the reference
        self._progress = progress
        self._shared = any(bench.shares_host for bench in benches)
        self._own = folder.name  # the table's name
        self._journal = Journal(folder, identity, str(plan.reference))
        self._conversion_s = self._busy_s = 0.0
        self._done = self._total = 0
        self._said_busy = False
        for bench in benches[1:]:
            other = identify(bench, identity.precision, identity.threads)
            if (why := stranger(identity, other)) is not None:
                self._leave_out(bench, why)

    def run(self) -> None:
        """Measure what the journal lacks."""
        # Whole networks are measured twice, before the layers and after: what they differ by is the noise floor.
        probes: list[Job] = [(f"first {network}", network) for network in self._plan.calibration]
        others: list[Job] = [(f"first {network}", network) for network in self._plan.networks[len(probes) :]]
        layers: list[Job] = [(str(layer), layer) for layer in self._plan.layers]
        again: list[Job] = [(f"again {network}", network) for network in self._plan.networks]
        donor = find_donor(self._identity, self._plan.layers, self._journal.ratios, self._own)
        asked: list[Job] = []
        if donor is not None:
            asked.append((f"donor {donor.name}", Architecture.parse(donor.table.reference[0])))
            asked += [(str(layer), layer) for layer in donor.probes]
        self._total = sum(map(len, (probes, others, asked, layers, again)))
        with ConversionPool(MODELS, self._precision) as pool, ThreadPoolExecutor(len(self.benches)) as hands:
            if len(self.benches) > 1:
                self._probe(pool, hands, probes)
            self._share(pool, hands, self._batches([*probes, *others, *asked]))
            if donor is not None:
                self._adopt(donor)
            self._share(pool, hands, self._batches(layers) + self._batches(again))
            self._conversion_s = pool.busy_s

    def _batches(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """What is still to be measured, in batches."""
        todo = [job for job in jobs if job[0] not in self._journal.ratios]
        self._done += len(jobs) - len(todo)
        return [todo[start : start + BATCH] for start in range(0, len(todo), BATCH)]

    def _adopt(self, donor: Donor) -> None:
        """Take over what another table of this device knows, if a sample of it still holds."""
        reference = self._journal.ratios[f"donor {donor.name}"]
        empty = float(np.median([session["empty"] for session in self._journal.sessions]))
        probes = {layer: self._journal.ratios[str(layer)].value - empty for layer in donor.probes}
        if not donor.holds(reference, probes):
            self._progress(f"{donor.name} does not hold any more: all is measured", 0, 1)
            return
        for layer, ratio in donor.ratios(reference).items():
            if str(layer) not in self._journal.ratios:
                entry = donor.table.entries[layer]
                self.adopted[layer] = ratio
                self._journal.ratios[str(layer)] = Ratio(ratio, entry.half_width or 0.0, ratio, entry.resident_kb)
        self.donor = donor

    def _probe(self, pool: ConversionPool, hands: ThreadPoolExecutor, probes: list[Job]) -> None:
        """Have every device measure the same networks, and leave out those that differ from what most say."""
        paths = self._wait_for(self._submit(pool, probes))
        found: list[tuple[AnyBench, Rounds]] = []
        for bench, future in self._measure_everywhere(hands, paths):
            try:
                found.append((bench, future.result()))
            except DeviceError as error:
                self._leave_out(bench, str(error))
        if not found:
            raise DeviceError("; ".join(self.left_out.values()))
        model, typical = max(
            found, key=lambda one: sum(stranger_by_times(one[1], other) is None for _, other in found)
        )  # the first of those that most others are like
        kept = [typical]
        for bench, rounds in found:
            if bench is model:
                continue
            if (why := stranger_by_times(typical, rounds)) is not None:
                self._leave_out(bench, f"{bench.device.name} does not behave like {model.device.name}: {why}")
            else:
                kept.append(rounds)
        if probes[0][0] not in self._journal.ratios:
            self._take(probes, typical if len(kept) == 1 else mean_of(kept))

    def _measure_everywhere(
        self, hands: ThreadPoolExecutor, paths: list[Path]
    ) -> "list[tuple[AnyBench, Future[Rounds]]]":
        futures = []
        for bench in self.benches:
            futures.append((bench, hands.submit(self._measure, bench, paths)))
            if self._shared:  # devices on the host's own cores would disturb each other
                wait([futures[-1][1]])
        return futures

    def _share(self, pool: ConversionPool, hands: ThreadPoolExecutor, batches: list[list[Job]]) -> None:
        """Give each device a batch as it becomes free. While they measure, the next are converted, unless a device
        shares the host's cores: that is measured only while the host is idle."""
        todo = collections.deque(batches)
        ahead: dict[int, Jobs] = {}
        running: dict[Future[Rounds], tuple[AnyBench, list[Job]]] = {}
        idle = list(self.benches)

        def submit(batch: list[Job]) -> None:
            if id(batch) not in ahead:
                ahead[id(batch)] = self._submit(pool, batch)

        while todo or running:
            while todo and idle and not (self._shared and running):
                batch = todo.popleft()
                submit(batch)
                paths = self._wait_for(ahead[id(batch)])
                if not self._shared:
                    for following in list(todo)[: len(self.benches)]:
                        submit(following)
                bench = idle.pop(0)
                running[hands.submit(self._measure, bench, paths)] = bench, batch
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                bench, batch = running.pop(future)
                try:
                    self._take(batch, future.result())
                    idle.append(bench)
                except DeviceError as error:
                    todo.appendleft(batch)
                    self._leave_out(bench, str(error))
                    if not self.benches:
                        raise

    def _submit(self, pool: ConversionPool, jobs: Sequence[Job]) -> Jobs:
        return pool.submit([subject for _, subject in jobs] + [EMPTY, self._plan.reference])

    def _tell(self, ahead: int = 0) -> None:
        self._progress("profiling", min(self._done + ahead, self._total), self._total)

    def _wait_for(self, jobs: Jobs) -> list[Path]:
        # Converting counts as half of the work on a model: one bar, and one time left, for the whole profile.
        return wait_for(jobs, lambda done, total: self._tell(min(done, total - 2) // 2))

    def _measure(self, bench: AnyBench, paths: list[Path]) -> Rounds:
        return bench.measure(paths[:-1], paths[-1])

    def _take(self, batch: Sequence[Job], rounds: Rounds) -> None:
        """Into the journal; what runs is kept where something else does not.

        Raises:
            CheckFailedError: a model does not run: not the device is at fault, and no other one would do.
        """
        *ratios, empty = rounds.ratios
        if empty is None:
            raise CheckFailedError(f"The empty model does not run on the device: {rounds.failed[len(batch)]}.")
        lines: list[dict[str, Any]] = []
        failed: list[str] = []
        for index, ((key, _), ratio) in enumerate(zip(batch, ratios, strict=True)):
            if ratio is None:
                failed.append(f"{key} does not run on the device: {rounds.failed[index]}.")
            else:
                lines.append({"key": key, **files.as_mapping(ratio)})
        self._busy_s += rounds.busy_s
        self._journal.add(lines, {
            "reference_us": rounds.reference_us, "empty": empty.value,
            "empty_cold": empty.cold, "empty_kb": empty.resident_kb, "busy_s": rounds.busy_s,
            "visits": rounds.visits, "interrupted": rounds.interrupted, "drifted": rounds.drifted,
            "delegated": _delegated(batch, rounds), "disturbed": rounds.steadiness.disturbed,
        })  # fmt: skip
        self._done += len(lines)
        self._tell()
        if rounds.steadiness.disturbed and not self._said_busy:
            self._said_busy = True
            lost = f"{rounds.steadiness.interrupted:.0%} of the visits lost their core to other work"
            self._progress(f"the device is busy ({lost}): it takes longer, and intervals will be wider", 0, 1)
        if failed:
            raise CheckFailedError(" ".join(failed[:3]) + (f" Nor do {len(failed) - 3} others." if failed[3:] else ""))

    def _leave_out(self, bench: AnyBench, why: str) -> None:
        self.benches.remove(bench)
        self.left_out[bench.device.name] = why
        if self.benches:
            self._progress(f"going on without {bench.device.name}: {why}", 0, 1)

    def table(self) -> LatencyTable:
        """The table of all that was measured."""
        sessions = self._journal.sessions
        reference_us = float(np.median([session["reference_us"] for session in sessions]))
        empty_us = float(np.median([session["empty"] for session in sessions])) * reference_us
        empty_kb = min(session["empty_kb"] or 0.0 for session in sessions)
        empty_cold_us = float(np.median([session["empty_cold"] or 0.0 for session in sessions])) * reference_us
        ratios = self._journal.ratios
        adopted = {str(layer) for layer in self.adopted}
        delegated: collections.Counter[str] = collections.Counter()
        for session in sessions:
            delegated.update(session.get("delegated", {}))
        entries = {}
        for layer in self._plan.layers:
            if layer in self.adopted:
                entries[layer] = self._adopted_entry(layer, reference_us)
                continue
            ratio = ratios[str(layer)]
            us = max(ratio.value * reference_us - empty_us, LEAST_US)
            cold_us = None if ratio.cold is None else round(max(ratio.cold * reference_us - empty_cold_us, us), 4)
            resident_kb = None if ratio.resident_kb is None else max(0.0, ratio.resident_kb - empty_kb)
            # Of what is left when the empty model's time, which is part of the ratio, is taken off.
            half_width = ratio.half_width * ratio.value * reference_us / us
            entries[layer] = Entry(round(us, 4), round(half_width, 4), cold_us, resident_kb)
        raw = LatencyTable(
            identity=self._identity,
            source="measured",
            reference=(str(self._plan.reference), reference_us),
            empty_us=empty_us,
            entries=entries,
            provenance={
                "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "sessions": self._journal.begun,
                "device_busy_s": round(self._busy_s, 1),
                "conversion_s": round(self._conversion_s, 1),
                "visits": sum(session["visits"] for session in sessions),
                "interrupted": sum(session["interrupted"] for session in sessions),
                "drifted": sum(session["drifted"] for session in sessions),
                # Of the batches: how much of the table was measured on a device that did not keep still.
                "disturbed": round(float(np.mean([session.get("disturbed", False) for session in sessions])), 3),
                "unsettled": sum(ratio.half_width > HALF_WIDTH for key, ratio in ratios.items() if key not in adopted),
                "adopted": len(self.adopted),
                "adopted_from": self.donor.name if self.donor else None,
                **({"delegated": dict(delegated)} if delegated else {}),
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

    def _adopted_entry(self, layer: Layer, reference_us: float) -> Entry:
        """In this table's microseconds; the empty model's time was taken off when it was measured."""
        assert self.donor is not None
        theirs = self.donor.table.entries[layer]
        us = self.adopted[layer] * reference_us
        cold_us = None if theirs.cold_us is None else round(theirs.cold_us * us / theirs.us, 4)
        return dataclasses.replace(theirs, us=round(us, 4), cold_us=cold_us)

    def _networks(self, networks: Sequence[Architecture], reference_us: float) -> tuple[Network, ...]:
        """Networks as measured, without a prediction yet."""
        found = []
        for network in networks:
            first, again = (self._journal.ratios[f"{when} {network}"].value for when in ("first", "again"))
            found.append(Network(str(network), first * reference_us / 1000, again * reference_us / 1000, float("nan")))
        return tuple(found)


def _delegated(batch: Sequence[Job], rounds: Rounds) -> dict[str, int]:
    """How many layers of a batch a phone's delegate took wholly, in part and not at all, where that is told."""
    told = zip(batch, rounds.delegated, strict=False)
    return dict(collections.Counter(share for (_, subject), share in told if share and isinstance(subject, Layer)))
