"""`ship`: a bundle to a device, checked there before it goes live. Whatever fails, the old model stays the live one."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.deploy.bundle import LABELS, MODEL, Bundle, Samples
from edgenas.deploy.manifest import FILE
from edgenas.deploy.promise import Measured, Promise, measure_alone, measure_beside_reference, promise
from edgenas.deploy.releases import refuse_app, releases_on
from edgenas.device import Agent, Connection, Device, connect
from edgenas.errors import CheckFailedError, DeviceError, EdgeNASError, InputError
from edgenas.files import check_name, sha256
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import mismatch

LEAST_AGREEMENT = 0.98  # share of the samples on which the device must name the class that the host names
# What goes live. The samples travel only for the check and are removed: they may be private.
RELEASED = (MODEL, LABELS, FILE)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at on the way; `passed` is None where it could not be."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Shipped:
    """What shipping did.

    Attributes:
        name, device: the model's name there, and the device's.
        active: the release that is live now; None: none is.
        previous: the release that was live before.
        agreement_on_device: share of the samples on which device and host name the same class; None without samples.
        largest_difference: between their raw outputs.
        latency_ms: "median" and "p90", as the device's clock showed them.
        normalised_ms: the same latency in the table's milliseconds; None without a table of this device.
        predicted_ms: by the table; without one, by the bundle's.
        limit_ms: what the median had to keep; None: nothing.
        promise: "kept", "broken", or "unbacked" where no certified table of this device backs one.
        promise_kept: the same as true, false or null.
        checks: all that was looked at, in order.
        dry_run: whether everything was done but the switch.
    """

    name: str
    device: str
    active: int | None
    previous: int | None
    agreement_on_device: float | None
    largest_difference: float | None
    latency_ms: dict[str, float]
    normalised_ms: float | None
    predicted_ms: float | None
    limit_ms: float | None
    promise: str
    promise_kept: bool | None
    checks: tuple[Check, ...]
    dry_run: bool


def ship(
    bundle: Bundle,
    device: Device,
    name: str,
    *,
    table: LatencyTable | None = None,
    to_app: str | None = None,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Shipped:
    """Send a bundle to a device, check it there, and make it the live model of that name.

    Args:
        bundle: what to ship.
        device: where to.
        name: of the model on the device; what was live under it stays there for `rollback`.
        table: of this device, to compare the latency with; without one it is measured all the same.
        to_app: of a phone: a debuggable app's package, whose own files the model goes into.
        dry_run: do everything but the switch.
        progress: called with what is being done, how much of how much.

    Raises:
        CheckFailedError: no room, a hash that does not match, other answers than on the host, slower than its limit,
            or a bundle that rests on a simulated table. The old model stays live.
        DeviceError: unreachable, or the link broke. The old model stays live.
        InputError: a bad name, or a table of another device, precision or runtime.
    """
    check_name("model", name)
    _refuse_simulated(bundle, table)
    if table is not None:
        why = mismatch(table, device, bundle.manifest.precision, table.identity.threads)
        if why is not None:
            raise InputError(f"The latency table does not fit: {why}. `edgenas table list` shows those there are.")
    if device.address.kind == "adb":
        from edgenas.deploy.phones import ship_to_phone

        return ship_to_phone(bundle, device, name, table=table, to_app=to_app, dry_run=dry_run, progress=progress)
    refuse_app(device, to_app)
    with connect(device) as connection, connection.open_agent() as agent:
        agent.runtime_version(device.runtime.package)
        return _Shipment(bundle, name, table, connection, agent, progress).run(dry_run)


def _refuse_simulated(bundle: Bundle, table: LatencyTable | None) -> None:
    used = bundle.manifest.table
    for what, source in (
        ("The bundle rests on a latency table", used and used.source),
        ("The latency table given", table and table.source),
    ):
        if source == "simulated":
            raise CheckFailedError(
                f"{what} that is simulated: nobody measured it, so nothing that rests on it is shipped. "
                "Profile the device, and search with that table."
            )


class _Shipment:
    """One bundle on its way to one device."""

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        table: LatencyTable | None,
        connection: Connection,
        agent: Agent,
        progress: Progress,
    ) -> None:
        self._bundle = bundle
        self._name = name
        self._device = agent.device
        self._connection = connection
        self._agent = agent
        self._progress = progress
        self._table = table
        self._promise = promise(table, bundle.architecture, agent)
        self._before = self._live()
        self._switching = False
        self._checks: list[Check] = []

    def run(self, dry_run: bool) -> Shipped:
        """All steps in order."""
        manifest = self._bundle.manifest
        hashes = {
            MODEL: manifest.files[MODEL],
            LABELS: manifest.files[LABELS],
            FILE: sha256(self._bundle.folder / FILE),
        }
        with self._staged() as staging:
            for number, file in enumerate(RELEASED):
                self._progress("sending", number, len(RELEASED))
                self._connection.put(self._bundle.folder / file, f"{staging}/{file}")
            self._progress("checking on the device", 0, 1)
            self._verify(staging, hashes)
            agreement, difference = self._agreement(staging)
            measured = self._latency(staging)
            self._remove(f"{staging}/check")
            self._verify(staging, hashes)
            shipped = self._result(measured, agreement, difference, dry_run)
            if dry_run:
                self._agent.call("discard", staging=staging)
                return shipped
            record = self._record(shipped, hashes)
            self._switching = True
            answer = self._agent.call("activate", name=self._name, staging=staging, record=record)
            return _activated(shipped, answer, self._device)

    @contextlib.contextmanager
    def _staged(self) -> Iterator[str]:
        """A staging folder on the device; left by an error, it is removed and the error says what is live."""
        staging: str | None = None
        try:
            samples = self._bundle.samples
            size = sum((self._bundle.folder / file).stat().st_size for file in RELEASED)
            size += 0 if samples is None else samples.images.nbytes + samples.outputs.nbytes
            staging = str(self._agent.call("stage", name=self._name, bytes_needed=size)["staging"])
            yield staging
        except EdgeNASError as error:
            self._discard(staging)
            error.args = (f"{error} {self._what_is_live()}",)
            raise
        except BaseException:
            self._discard(staging)
            raise

    def _verify(self, staging: str, hashes: dict[str, str]) -> None:
        self._agent.call("verify_staged", staging=staging, hashes=hashes)
        if not self._checks:
            self._note("hashes", True, f"{len(hashes)} files arrived as they were sent")

    def _agreement(self, staging: str) -> tuple[float | None, float | None]:
        """Share of samples with the same top class on host and device, and the largest difference of outputs."""
        samples = self._bundle.samples
        if samples is None:
            self._note("agreement", None, "the bundle has no samples")
            return None, None
        answers = self._infer(staging, samples)
        same = answers.argmax(axis=1) == samples.outputs.argmax(axis=1)
        agreement = float(same.mean())
        difference = float(np.abs(answers.astype(float) - samples.outputs.astype(float)).max())
        detail = f"the same class as on the host on {agreement:.1%} of {len(same)} samples"
        self._note("agreement", agreement >= LEAST_AGREEMENT, detail)
        if agreement < LEAST_AGREEMENT:
            raise CheckFailedError(
                f"{self._device.name}: the model names {detail}, expected at least {LEAST_AGREEMENT:.0%} (outputs "
                f"differ by up to {difference:g}). Its runtime computes something else."
            )
        return agreement, difference

    def _infer(self, staging: str, samples: Samples) -> npt.NDArray[Any]:
        """[n, classes] what the device makes of the samples."""
        inputs, outputs = f"{staging}/check/inputs.npy", f"{staging}/check/outputs.npy"
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "samples.npy"
            np.save(local, samples.images, allow_pickle=False)
            self._connection.put(local, inputs)
            self._agent.call(
                "infer",
                timeout_s=120,
                on_progress=_rows(self._progress),
                model=f"{staging}/{MODEL}",
                inputs=inputs,
                outputs=outputs,
                threads=self._threads,
                runtime=self._device.runtime.package,
            )
            self._connection.get(outputs, local)
            try:
                answers: npt.NDArray[Any] = np.load(local, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DeviceError(f"{self._device.name}: its outputs cannot be read: {error}.") from None
        expected = samples.outputs
        if (answers.shape, answers.dtype) != (expected.shape, expected.dtype) or not np.isfinite(answers).all():
            raise CheckFailedError(
                f"{self._device.name}: expected finite outputs {expected.dtype} {list(expected.shape)} of the samples, "
                f"received {answers.dtype} {list(answers.shape)}."
            )
        return answers

    def _latency(self, staging: str) -> Measured:
        """How long it takes there, and whether that keeps its limit."""
        self._progress("measuring on the device", 0, 1)
        model, table = f"{staging}/{MODEL}", self._table
        if table is None or self._promise.highest_ms is None:
            measured = measure_alone(self._agent, model, self._threads)
        else:
            measured = measure_beside_reference(self._connection, self._agent, table, model, f"{staging}/check")
        limit = self._limit_ms
        if limit is not None:
            detail = f"{measured.median_ms:.4g} ms measured, at most {limit:.4g} ms allowed"
            self._note("limit", measured.median_ms <= limit, detail)
            if measured.median_ms > limit:
                raise CheckFailedError(f"{self._device.name}: the model is slower than its limit: {detail}.")
        return measured

    def _result(self, measured: Measured, agreement: float | None, difference: float | None, dry_run: bool) -> Shipped:
        said: Promise = self._promise
        kept = said.kept(measured.normalised_ms)
        if said.gap is not None:
            self._note("promise", None, said.gap)
        else:
            detail = (
                f"{measured.normalised_ms:.4g} ms in the table's units, {said.predicted_ms:.4g} ms predicted, "
                f"at most {said.highest_ms:.4g} ms promised"
            )
            self._note("promise", kept, detail)
        return Shipped(
            name=self._name,
            device=self._device.name,
            active=self._before,
            previous=self._before,
            agreement_on_device=agreement,
            largest_difference=difference,
            latency_ms={"median": measured.median_ms, "p90": measured.p90_ms},
            normalised_ms=measured.normalised_ms,
            predicted_ms=self._bundle.manifest.predicted.latency_ms if self._table is None else said.predicted_ms,
            limit_ms=self._limit_ms,
            promise="unbacked" if kept is None else "kept" if kept else "broken",
            promise_kept=kept,
            checks=tuple(self._checks),
            dry_run=dry_run,
        )

    def _record(self, shipped: Shipped, hashes: dict[str, str]) -> dict[str, Any]:
        """What the device keeps of this release, for `deployed`."""
        manifest = self._bundle.manifest
        return {
            "study": manifest.study.name,
            "candidate": manifest.study.candidate,
            "architecture": manifest.architecture.id,
            "precision": manifest.precision,
            "test_accuracy": manifest.accuracy.test,
            "latency_ms": shipped.latency_ms,
            "predicted_ms": shipped.predicted_ms,
            "agreement_on_device": shipped.agreement_on_device,
            "model_sha256": hashes[MODEL],
        }

    @property
    def _threads(self) -> int:
        if self._table is not None:
            return self._table.identity.threads
        used = self._bundle.manifest.table
        return 1 if used is None else used.identity.threads

    @property
    def _limit_ms(self) -> float | None:
        """The stricter of the study's limit and the device's own."""
        limits = (self._bundle.manifest.limits.get("max_latency_ms"), self._device.limits.max_latency_ms)
        return min((limit for limit in limits if limit is not None), default=None)

    def _note(self, name: str, passed: bool | None, detail: str) -> None:
        self._checks.append(Check(name, passed, detail))

    def _remove(self, path: str) -> None:
        done = self._connection.run(["rm", "-rf", "--", path])
        if done.returncode != 0:
            raise DeviceError(f"{self._device.name}: {path} could not be removed: {done.stderr.strip()}.")

    def _live(self) -> int | None:
        return next((found.release for found in releases_on(self._agent) if found.name == self._name), None)

    def _discard(self, staging: str | None) -> None:
        """Remove the staging folder where the device can still be reached; the next `stage` removes it otherwise."""
        if staging is not None:
            with contextlib.suppress(EdgeNASError):
                self._agent.call("discard", timeout_s=10, staging=staging)

    def _what_is_live(self) -> str:
        """One sentence on what the device runs now that shipping has failed."""
        try:
            live = self._live()
        except EdgeNASError:
            if self._switching:
                return (
                    f"That was in the middle of the switch: the old or the new {self._name!r} is live, whole either "
                    f"way. Ask with: edgenas deployed {self._device.name}"
                )
            live = self._before  # only `activate` changes it
        if live != self._before:
            return f"The new release {live} of {self._name!r} is live all the same."
        if live is None:
            return f"Nothing was put live: {self._name!r} has no release on {self._device.name}."
        return f"The old model is still live: release {live} of {self._name!r}."


def _activated(shipped: Shipped, answer: Any, device: Device) -> Shipped:
    try:
        return dataclasses.replace(shipped, active=int(answer["release"]))
    except (KeyError, TypeError, ValueError):
        raise DeviceError(f"{device.name}: its answer to 'activate' makes no sense: {answer!r}.") from None


def _rows(progress: Progress) -> Callable[[dict[str, Any]], None]:
    """Pass on how many samples the device has run."""
    return lambda said: progress("running the samples", int(said.get("row", 0)), int(said.get("rows", 0)))
