"""`ship`: a bundle to a device, checked there before it goes live. Whatever fails, the old model stays the live one."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgenas.deploy.agreement import Agreement, run_samples
from edgenas.deploy.bundle import LABELS, MODEL, Bundle
from edgenas.deploy.manifest import FILE
from edgenas.deploy.promise import Measured, Promise, measure_in_place, promise
from edgenas.deploy.releases import refuse_app, releases_on
from edgenas.deploy.shipped import Check, Shipped
from edgenas.device import Agent, Connection, Device, connect
from edgenas.device.agent.signatures import SIGNATURE
from edgenas.errors import CheckFailedError, DeviceError, EdgeNASError, InputError
from edgenas.files import check_name, sha256
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import mismatch

_SLOWEST_BYTES_PER_S = 5_000  # a link that brings less is given up
# What goes live. The samples travel only for the check and are removed: they may be private.
RELEASED = (MODEL, LABELS, FILE, SIGNATURE)


def ship(
    bundle: Bundle,
    device: Device,
    name: str,
    *,
    table: LatencyTable | None = None,
    precision: str | None = None,
    keep: int = 2,
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
        precision: which of the bundle's models; None: the one it was made for.
        keep: how many releases stay on the device, this one among them.
        to_app: of a phone: a debuggable app's package, whose own files the model goes into.
        dry_run: do everything but the switch.
        progress: called with what is being done, how much of how much.

    Raises:
        CheckFailedError: no room, a hash or a signature that does not match, an older release than the device has had,
            other answers than on the host, slower than its limit, or a bundle that rests on a simulated table. The old
            model stays live.
        DeviceError: unreachable, or the link broke. The old model stays live.
        InputError: a bad name, or a table of another device, precision or runtime.
    """
    check_name("model", name)
    _refuse_simulated(bundle, table)
    precision = precision or bundle.manifest.precision
    bundle.model_of(precision)
    if table is not None:
        why = mismatch(table, device, precision, table.identity.threads)
        if why is not None:
            raise InputError(f"The latency table does not fit: {why}. `edgenas table list` shows those there are.")
    if device.address.kind == "adb":
        from edgenas.deploy.phones import ship_to_phone

        return ship_to_phone(
            bundle, device, name, precision, table=table, keep=keep, to_app=to_app, dry_run=dry_run, progress=progress
        )
    refuse_app(device, to_app)
    with connect(device) as connection, connection.open_agent() as agent:
        agent.runtime_version(device.runtime.package)
        return _Shipment(bundle, precision, name, table, connection, agent, progress).run(dry_run, keep)


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
        precision: str,
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
        self._precision = precision
        sources = {name: bundle.folder / name for name in RELEASED} | {MODEL: bundle.model_of(precision)}
        self._sources = {name: path for name, path in sources.items() if path.is_file()}
        self._hashes = {name: sha256(path) for name, path in self._sources.items()}
        self._switching = False
        self._checks: list[Check] = []

    def run(self, dry_run: bool, keep: int) -> Shipped:
        """All steps in order."""
        number = self._bundle.manifest.release
        self._agent.lock()  # nobody else is measuring or shipping there: what is cleared up is our own
        with self._cleared_up():
            self._send()
            staged = self._stage()
            agreement = self._agreement(staged)
            measured = self._latency(staged)
            shipped = self._result(measured, agreement, dry_run)
            if dry_run:
                self._discard(*self._hashes.values())
                return shipped
            record = self._record(shipped)
            self._switching = True
            answer = self._agent.call(
                "activate", name=self._name, release=number, folder=staged.folder, record=record, keep=keep
            )
            return _activated(shipped, answer, self._device)

    @contextlib.contextmanager
    def _cleared_up(self) -> Iterator[None]:
        """Left by an error, nothing stays on the device but what a cut upload goes on with, and the error says what is
        live."""
        try:
            yield
        except EdgeNASError as error:
            self._discard(*self._hashes.values())
            error.args = (f"{error} {self._what_is_live()}",)
            raise
        except BaseException:
            self._discard()
            raise

    def _send(self) -> None:
        """Send what the device has not; what was cut goes on."""
        samples = self._bundle.samples_of(self._precision)
        spare = 0 if samples is None else samples.images.nbytes + samples.outputs.nbytes
        sizes = {name: path.stat().st_size for name, path in self._sources.items()}
        files = {name: {"sha256": sha, "size_bytes": sizes[name]} for name, sha in self._hashes.items()}
        release = self._bundle.manifest.release
        answer = self._agent.call("prepare", name=self._name, release=release, files=files, spare_bytes=spare)
        try:
            folder, lacking = str(answer["folder"]), set(answer["lacking"])
        except (KeyError, TypeError):
            raise DeviceError(f"{self._device.name}: its answer to 'prepare' makes no sense: {answer!r}.") from None
        for name, sha in self._hashes.items():
            if sha in lacking:
                self._progress(f"sending {name}", 0, sizes[name])
                self._connection.put(
                    self._sources[name],
                    f"{folder}/{sha}",
                    timeout_s=600 + sizes[name] / _SLOWEST_BYTES_PER_S,
                    resume=True,
                    sent=functools.partial(self._progress, f"sending {name}"),
                )

    def _stage(self) -> "_Staged":
        """Have the device put the release together and verify it, signature included."""
        self._progress("checking on the device", 0, 1)
        release = self._bundle.manifest.release
        answer = self._agent.call("stage", name=self._name, release=release, files=self._hashes)
        try:
            staged = _Staged(str(answer["folder"]), str(answer["scratch"]))
            signed_by = None if answer["signed_by"] is None else str(answer["signed_by"])[:16]
        except (KeyError, TypeError):
            raise DeviceError(f"{self._device.name}: its answer to 'stage' makes no sense: {answer!r}.") from None
        self._note("hashes", True, f"{len(self._hashes)} files arrived as they were sent")
        detail = (
            f"by the trusted key {signed_by}" if signed_by else "the device trusts no key: hashes alone are checked"
        )
        self._note("signature", True if signed_by else None, detail)
        return staged

    def _agreement(self, staged: "_Staged") -> Agreement | None:
        """What the device makes of the bundle's samples."""
        samples = self._bundle.samples_of(self._precision)
        if samples is None:
            self._note("agreement", None, "the bundle has no samples")
            return None
        model = f"{staged.folder}/{MODEL}"
        found = run_samples(
            self._connection, self._agent, model, samples, staged.scratch, self._threads, self._progress
        )
        self._note("agreement", found.enough, found.detail)
        if not found.enough:
            raise CheckFailedError(f"{self._device.name}: {found.complaint}")
        return found

    def _latency(self, staged: "_Staged") -> Measured:
        """How long it takes there, and whether that keeps its limit."""
        self._progress("measuring on the device", 0, 1)
        table = None if self._promise.highest_ms is None else self._table
        model = f"{staged.folder}/{MODEL}"
        measured = measure_in_place(self._connection, self._agent, table, model, staged.scratch, self._threads)
        limit = self._limit_ms
        if limit is not None:
            low, high = measured.interval_ms
            detail = f"{measured.median_ms:.4g} ms measured ({low:.4g} to {high:.4g}), at most {limit:.4g} ms allowed"
            self._note("limit", low <= limit, detail)
            if low > limit:
                raise CheckFailedError(f"{self._device.name}: the model is slower than its limit: {detail}.")
        return measured

    def _result(self, measured: Measured, agreement: Agreement | None, dry_run: bool) -> Shipped:
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
            agreement_on_device=None if agreement is None else agreement.share,
            largest_difference=None if agreement is None else agreement.largest_difference,
            release=self._bundle.manifest.release,
            latency_ms={"median": measured.median_ms, "p90": measured.p90_ms},
            latency_interval_ms=measured.interval_ms,
            normalised_ms=measured.normalised_ms,
            predicted_ms=self._predicted_ms,
            limit_ms=self._limit_ms,
            promise="unbacked" if kept is None else "kept" if kept else "broken",
            promise_kept=kept,
            checks=tuple(self._checks),
            dry_run=dry_run,
        )

    def _record(self, shipped: Shipped) -> dict[str, Any]:
        """What the device keeps of this release, for `deployed`."""
        manifest = self._bundle.manifest
        return {
            "study": manifest.study.name,
            "candidate": manifest.study.candidate,
            "architecture": manifest.architecture.id,
            "precision": self._precision,
            "threads": self._threads,
            "test_accuracy": manifest.accuracy.test,
            "latency_ms": shipped.latency_ms,
            "predicted_ms": shipped.predicted_ms,
            "agreement_on_device": shipped.agreement_on_device,
            "model_sha256": self._hashes[MODEL],
        }

    @property
    def _predicted_ms(self) -> float | None:
        """By the table; without one, by the bundle's, which is of the precision that it was made for."""
        manifest = self._bundle.manifest
        if self._table is None and self._precision == manifest.precision:
            return manifest.predicted.latency_ms
        return self._promise.predicted_ms

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

    def _live(self) -> int | None:
        return next((found.release for found in releases_on(self._agent) if found.name == self._name), None)

    def _discard(self, *sent: str) -> None:
        """Remove what was staged, and files that were `sent`, where the device can still be reached."""
        with contextlib.suppress(EdgeNASError):
            self._agent.call("discard", timeout_s=10, name=self._name, files=sent)

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


@dataclass(frozen=True)
class _Staged:
    """Where a release lies on the device before it goes live, and a folder there for its checks."""

    folder: str
    scratch: str


def _activated(shipped: Shipped, answer: Any, device: Device) -> Shipped:
    try:
        return dataclasses.replace(shipped, active=int(answer["release"]))
    except (KeyError, TypeError, ValueError):
        raise DeviceError(f"{device.name}: its answer to 'activate' makes no sense: {answer!r}.") from None
