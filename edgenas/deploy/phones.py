"""Bundles to phones: sent, verified by hash, measured with benchmark_model, then made live; and the way back.

A phone has no Python, so nothing there can check a signature or compare outputs: the checks say so.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from edgenas.deploy.bundle import LABELS, MODEL, Bundle
from edgenas.deploy.manifest import FILE
from edgenas.deploy.phone_releases import PhoneReleases, State
from edgenas.deploy.promise import Measured, files_beside, measured_beside, promise
from edgenas.deploy.releases import Deployed, RolledBack, Verified
from edgenas.deploy.shipped import Check, Shipped
from edgenas.deploy.shipping import RELEASED
from edgenas.device import Device, connect
from edgenas.errors import CheckFailedError, EdgeNASError, InputError, WentBackError
from edgenas.files import sha256
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.profiling.checking import anchors_of
from edgenas.latency.profiling.phone import PhoneBench
from edgenas.latency.table import LatencyTable


def ship_to_phone(
    bundle: Bundle,
    device: Device,
    name: str,
    precision: str,
    *,
    table: LatencyTable | None = None,
    keep: int = 2,
    to_app: str | None = None,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Shipped:
    """Send a bundle to a phone, check it there, and make it the live model of that name.

    Args:
        bundle, device, name, precision, table, keep, dry_run, progress: as of `ship`.
        to_app: a debuggable app's package: the model goes into its own files, `files/edgenas/NAME/`.

    Raises:
        CheckFailedError: no room, a hash that does not match, an older release than the phone has had, or slower than
            its limit. The old model stays live.
        DeviceError: unreachable, the link broke, or the app is not debuggable. The old model stays live.
        InputError: no name of a package.
    """
    used = bundle.manifest.table
    threads = table.identity.threads if table is not None else 1 if used is None else used.identity.threads
    with PhoneBench(device, threads, progress) as bench:
        releases = PhoneReleases(bench.phone.connection, to_app)
        shipment = _Shipment(bundle, precision, name, table, bench, threads, releases, progress)
        return shipment.run(dry_run, keep)


def deployed_on_phone(device: Device, to_app: str | None = None) -> list[Deployed]:
    """What is live on a phone, by name; see `deployed`."""
    with connect(device) as connection:
        releases = PhoneReleases(connection, to_app)
        states = {name: releases.state(name) for name in releases.names()}
    return [_deployed(name, state) for name, state in states.items() if state.live is not None]


def roll_back_phone(device: Device, name: str, to: int | None = None, to_app: str | None = None) -> RolledBack:
    """Make an earlier release the live one again; see `rollback`."""
    with connect(device) as connection:
        releases = PhoneReleases(connection, to_app)
        state = releases.state(name)
        if not state.releases and not state.events:
            raise InputError(f"{device.name}: no model {name!r} was ever put on this device.")
        kept = {event["release"] for event in state.events} & set(state.releases)
        if to is not None and to not in kept:
            those = ", ".join(map(str, sorted(kept)))
            raise CheckFailedError(f"{device.name}: release {to} of {name} is not kept on this device; it has {those}.")
        earlier = state.previous if to is None else to
        if earlier is None or earlier == state.live:
            raise CheckFailedError(f"{device.name}: {name} has no earlier release on this device.")
        releases.verify(releases.folder(name, earlier), _hashes_sent(device, name, state, earlier))
        releases.point(name, earlier)
        releases.note(name, "rollback", earlier, **{"from": state.live})
        return RolledBack(name, device.name, earlier, state.live)


def verify_on_phone(
    device: Device,
    name: str,
    *,
    bundle: Bundle | None = None,
    to_app: str | None = None,
    measure: bool = True,
    progress: Progress = no_progress,
) -> Verified:
    """Check the live release of a model where it lies: hashes and latency; see `verify`."""
    with contextlib.ExitStack() as stack:
        releases = PhoneReleases(stack.enter_context(connect(device)), to_app)
        state = releases.state(name)
        if state.live is None:
            raise InputError(f"{device.name}: no model {name!r} is live there.")
        hashes = _hashes_sent(device, name, state, state.live)
        if bundle is not None and hashes[FILE] != sha256(bundle.folder / FILE):
            raise CheckFailedError(
                f"{device.name}: live is release {state.live} of {name!r}, and the bundle {bundle.folder} is another "
                f"one (release {bundle.manifest.release})."
            )
        folder = releases.folder(name, state.live)
        releases.verify(folder, hashes)
        measured = None
        record = _record_of(state, state.live) or {}
        if measure:
            progress("measuring on the device", 0, 1)
            threads = record.get("threads")
            threads = threads if type(threads) is int and 0 < threads < 1000 else 1
            bench = stack.enter_context(PhoneBench(device, threads, progress))
            measured = _measure(bench, None, releases.reachable(folder, MODEL))
    then = record.get("latency_ms")
    return Verified(
        name=name,
        device=device.name,
        release=state.live,
        signed_by=None,
        agreement_on_device=None,
        latency_ms=None if measured is None else {"median": measured.median_ms, "p90": measured.p90_ms},
        latency_ms_when_shipped=then if isinstance(then, dict) else None,
    )


def _deployed(name: str, state: State) -> Deployed:
    assert state.live is not None
    events = [event for event in state.events if event["release"] == state.live]
    since = events[-1]["at"] if events else None
    return Deployed(name, state.live, state.previous, since, _record_of(state, state.live))


def _record_of(state: State, release: int) -> dict[str, Any] | None:
    """What was written down when a release was last shipped."""
    records = [event.get("record") for event in state.events if event["release"] == release]
    return next((record for record in reversed(records) if isinstance(record, dict)), None)


def _hashes_sent(device: Device, name: str, state: State, release: int) -> dict[str, str]:
    """What the history says a release's files are."""
    hashes = (_record_of(state, release) or {}).get("sha256")
    if isinstance(hashes, dict) and {MODEL, LABELS, FILE} <= set(hashes) <= set(RELEASED):
        return {str(file): str(digest) for file, digest in hashes.items()}
    raise CheckFailedError(f"{device.name}: the history of {name} does not say what release {release} holds.")


def _measure(bench: PhoneBench, table: LatencyTable | None, model: str) -> Measured:
    """How long a model on the phone takes beside the reference model, and beside networks of the table."""
    anchors = [] if table is None else anchors_of(table)
    reference, *beside = bench.send(*files_beside(table, anchors))
    return measured_beside(bench.device, table, anchors, bench.measure_there([model, *beside], reference))


class _Shipment:
    """One bundle on its way to one phone."""

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        name: str,
        table: LatencyTable | None,
        bench: PhoneBench,
        threads: int,
        releases: PhoneReleases,
        progress: Progress,
    ) -> None:
        self._bundle = bundle
        self._precision = precision
        self._name = name
        self._table = table
        self._bench = bench
        self._threads = threads
        self._releases = releases
        self._release = bundle.manifest.release
        self._progress = progress
        self._promise = promise(table, bundle.architecture, bench.phone)
        self._before = releases.state(name)
        sources = {file: bundle.folder / file for file in RELEASED} | {MODEL: bundle.model_of(precision)}
        self._sources = {file: path for file, path in sources.items() if path.is_file()}
        self._hashes = {file: sha256(path) for file, path in self._sources.items()}
        self._switching = False
        self._checks: list[Check] = []

    def run(self, dry_run: bool, keep: int) -> Shipped:
        """All steps in order."""
        self._refuse_older()
        with self._placed() as (folder, staged):
            self._progress("checking on the device", 0, 1)
            self._releases.verify(folder, self._hashes)
            self._note("hashes", True, f"{len(self._hashes)} files arrived as they were sent")
            self._note("signature", None, "a phone checks hashes only, no signatures")
            self._note("agreement", None, "benchmark_model gives no outputs to compare with the host's")
            shipped = self._result(self._latency(folder), dry_run)
            if dry_run:
                self._releases.discard(self._name)
                return shipped
            if staged:
                self._releases.adopt(self._name, self._release)
            self._activate(shipped)
            self._releases.prune(self._name, keep)
        return dataclasses.replace(shipped, active=self._release)

    def _activate(self, shipped: Shipped) -> None:
        """The switch; what cannot be read where it is live is taken back."""
        if self._before.live == self._release and _record_of(self._before, self._release) is not None:
            return
        self._switching = True
        self._releases.point(self._name, self._release)
        try:
            self._releases.verify(self._releases.folder(self._name, self._release), self._hashes)
        except CheckFailedError as error:
            self._releases.point(self._name, self._before.live)
            raise WentBackError(f"{error} It was live for a moment, and was taken back.") from None
        self._releases.note(self._name, "activate", self._release, record=self._record(shipped))

    def _refuse_older(self) -> None:
        """A release is never followed by an older one; `rollback` is the way back."""
        newest = self._before.newest
        if self._release < newest and self._release != self._before.live:
            raise CheckFailedError(
                f"{self._bench.device.name}: release {self._release} of {self._name} is older than release {newest}, "
                "which this device has had; back to what it still keeps: edgenas rollback; a bundle gets a new number "
                "with: edgenas sign BUNDLE."
            )

    @contextlib.contextmanager
    def _placed(self) -> Iterator[tuple[str, bool]]:
        """The release's folder on the phone, its files in it, and whether it is only staged.

        Left by an error, what is staged is removed and the error says what is live.
        """
        try:
            if self._is_there():
                yield self._releases.folder(self._name, self._release), False
                return
            size_bytes = sum(path.stat().st_size for path in self._sources.values())
            staging = self._releases.stage(self._name, size_bytes)
            for number, (file, path) in enumerate(self._sources.items()):
                self._progress("sending", number, len(self._sources))
                self._releases.put(path, staging, file)
            yield staging, True
        except EdgeNASError as error:
            self._discard()
            error.args = (f"{error} {self._what_is_live()}",)
            raise
        except BaseException:
            self._discard()
            raise

    def _is_there(self) -> bool:
        """Whether the release has its folder already; one that is damaged and was never live is removed."""
        if self._release not in self._before.releases:
            return False
        if self._release != self._before.live:
            try:
                self._releases.verify(self._releases.folder(self._name, self._release), self._hashes)
            except CheckFailedError:
                if any(event["release"] == self._release for event in self._before.events):
                    raise
                self._releases.remove(self._name, self._release)
                return False
        return True

    def _discard(self) -> None:
        """Remove the staging folder where the phone can still be reached; the next `stage` removes it otherwise."""
        with contextlib.suppress(EdgeNASError):
            self._releases.discard(self._name)

    def _latency(self, placed: str) -> Measured:
        """How long it takes there, and whether that keeps its limit."""
        self._progress("measuring on the device", 0, 1)
        table = None if self._promise.highest_ms is None else self._table
        measured = _measure(self._bench, table, self._releases.reachable(placed, MODEL))
        limit = self._limit_ms
        if limit is not None:
            low, high = measured.interval_ms
            detail = f"{measured.median_ms:.4g} ms measured ({low:.4g} to {high:.4g}), at most {limit:.4g} ms allowed"
            self._note("limit", low <= limit, detail)
            if low > limit:
                raise CheckFailedError(f"{self._bench.device.name}: the model is slower than its limit: {detail}.")
        return measured

    def _result(self, measured: Measured, dry_run: bool) -> Shipped:
        said = self._promise
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
            device=self._bench.device.name,
            active=self._before.live,
            previous=self._before.live,
            agreement_on_device=None,
            largest_difference=None,
            release=self._release,
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
        """What the phone keeps of this release, for `deployed` and `verify`."""
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
            "agreement_on_device": None,
            "model_sha256": self._hashes[MODEL],
            "sha256": self._hashes,
        }

    @property
    def _predicted_ms(self) -> float | None:
        """By the table; without one, by the bundle's, which is of the precision that it was made for."""
        manifest = self._bundle.manifest
        if self._table is None and self._precision == manifest.precision:
            return manifest.predicted.latency_ms
        return self._promise.predicted_ms

    @property
    def _limit_ms(self) -> float | None:
        """The stricter of the study's limit and the phone's own."""
        limits = (self._bundle.manifest.limits.get("max_latency_ms"), self._bench.device.limits.max_latency_ms)
        return min((limit for limit in limits if limit is not None), default=None)

    def _note(self, name: str, passed: bool | None, detail: str) -> None:
        self._checks.append(Check(name, passed, detail))

    def _what_is_live(self) -> str:
        """One sentence on what the phone serves now that shipping has failed."""
        before, name = self._before.live, self._bench.device.name
        try:
            live = self._releases.state(self._name).live
        except EdgeNASError:
            if self._switching:
                return (
                    f"That was in the middle of the switch: the old or the new {self._name!r} is live, whole either "
                    f"way. Ask with: edgenas deployed {name}"
                )
            live = before  # only the switch changes it
        if live != before:
            return f"The new release {live} of {self._name!r} is live all the same."
        if live is None:
            return f"Nothing was put live: {self._name!r} has no release on {name}."
        return f"The old model is still live: release {live} of {self._name!r}."
