"""Bundles to phones: sent, verified by hash, measured with benchmark_model, then made live; and the way back.

A phone has no Python, so nothing there can check a signature or compare outputs: the checks say so.
"""

import contextlib
import dataclasses
from typing import Any

from edgenas.deploy.bundle import LABELS, MODEL, Bundle
from edgenas.deploy.live import Deployed, RolledBack, Verified, refuse_another, threads_in, verified
from edgenas.deploy.manifest import FILE
from edgenas.deploy.phone_releases import PhoneReleases, State
from edgenas.deploy.promise import Measured, files_beside, measured_beside, promise
from edgenas.deploy.shipment import RELEASED, Shipment, threads_of
from edgenas.deploy.shipped import Shipped
from edgenas.device import Device, connect, open_phone
from edgenas.errors import CheckFailedError, DeviceError, EdgeNASError, InputError, UnreachableError, WentBackError
from edgenas.latency.profiling.anchors import anchors_of
from edgenas.latency.profiling.bench import Progress, no_progress
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
    require_promise: bool = False,
    progress: Progress = no_progress,
) -> Shipped:
    """Send a bundle to a phone, check it there, and make it the live model of that name.

    Args:
        bundle, device, name, precision, table, keep, dry_run, require_promise, progress: as of `ship`.
        to_app: a debuggable app's package: the model goes into its own files, `files/edgenas/NAME/`.

    Raises:
        CheckFailedError: no room, a hash that does not match, an older release than the phone has had, or slower than
            its limit. The old model stays live.
        DeviceError: unreachable, the link broke, or the app is not debuggable. The old model stays live.
        InputError: no name of a package.
    """
    with PhoneBench(device, threads_of(bundle, table), progress) as bench:
        releases = PhoneReleases(bench.phone.connection, to_app)
        shipment = _PhoneShipment(bundle, precision, name, table, bench, releases, progress)
        return shipment.run(dry_run, keep, require_promise)


def deployed_on_phone(device: Device, to_app: str | None = None) -> list[Deployed]:
    """What is live on a phone, by name; see `deployed`."""
    with connect(device) as connection:
        releases = PhoneReleases(connection, to_app)
        found = [_deployed(releases, name) for name in releases.names()]
    return [one for one in found if one is not None]


def roll_back_phone(device: Device, name: str, to: int | None = None, to_app: str | None = None) -> RolledBack:
    """Make an earlier release the live one again; see `rollback`."""
    with contextlib.ExitStack() as stack:
        phone = open_phone(device, stack)
        phone.lock()  # nobody else is shipping there, and would remove what is gone back to
        releases = PhoneReleases(phone.connection, to_app)
        state = releases.state(name)
        if not state.releases and not state.events:
            raise InputError(f"{device.name}: no model {name!r} was ever put on this device.")
        kept = state.were_live & set(state.releases)
        if to is not None and to not in kept:
            those = ", ".join(map(str, sorted(kept)))
            raise CheckFailedError(f"{device.name}: release {to} of {name} is not kept on this device; it has {those}.")
        left = state.gone_back_from if to in (None, state.live) else None  # cut before it could be noted: now it is
        earlier = state.live if left is not None else state.previous if to is None else to
        if earlier is None or (left is None and earlier == state.live):
            raise CheckFailedError(f"{device.name}: {name} has no earlier release on this device.")
        before = state.live if left is None else left
        hashes = _hashes_sent(device, name, state, earlier)
        releases.verify(releases.folder(name, earlier), hashes)
        _switch(device, releases, name, earlier, before, hashes, "rollback", {"from": before})
        return RolledBack(name, device.name, earlier, before)


def _switch(
    device: Device,
    releases: PhoneReleases,
    name: str,
    release: int,
    before: int | None,
    hashes: dict[str, str],
    event: str,
    noted: dict[str, Any],
) -> None:
    """Make a release live; what cannot be read where it is live, or not be noted, is taken back, and does not stay.

    Raises:
        WentBackError: it was taken back; `before` is live.
        UnreachableError: the link broke; either is live.
    """
    try:
        releases.point(name, release)
        releases.verify(releases.folder(name, release), hashes)
        releases.note(name, event, release, **noted)
    except UnreachableError:
        raise
    except (CheckFailedError, DeviceError) as error:
        releases.point(name, before)
        with contextlib.suppress(EdgeNASError):  # what it was is told all the same
            if release not in releases.state(name).were_live:
                releases.remove(name, release)
        where = f"{device.name}: "
        why = str(error).removeprefix(where)
        raise WentBackError(f"{where}release {release} could not be made live, and was taken back: {why}") from None


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
        refuse_another(device, name, state.live, hashes[FILE], bundle)
        folder = releases.folder(name, state.live)
        releases.verify(folder, hashes)
        measured = None
        record = _record_of(state, state.live) or {}
        if measure:
            progress("measuring on the device", 0, 1)
            bench = stack.enter_context(PhoneBench(device, threads_in(record), progress))
            measured = _measure(bench, None, releases.reachable(folder, MODEL))
    return verified(device, name, state.live, record, measured)


def _deployed(releases: PhoneReleases, name: str) -> Deployed | None:
    """What is live of a model; None: nothing is."""
    try:
        state = releases.state(name)
    except CheckFailedError as error:  # one that is spoiled hides none of the others
        return Deployed(name, None, None, None, None, wrong=str(error))
    if state.live is None:
        return None
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


class _PhoneShipment(Shipment):
    """One bundle on its way to one phone."""

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        name: str,
        table: LatencyTable | None,
        bench: PhoneBench,
        releases: PhoneReleases,
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._releases = releases
        self._there = releases.state(name)
        promised = promise(table, bundle.architecture, bench.phone)
        before = self._there.live
        if before == bundle.manifest.release and _record_of(self._there, before) is None:
            before = self._there.previous  # it was switched to, and cut before that could be noted
        super().__init__(bundle, precision, name, bench.device, table, promised, before, progress)

    def run(self, dry_run: bool, keep: int, require_promise: bool) -> Shipped:
        """All steps in order."""
        with self._cleared_up():
            self._refuse_older()
            folder, staged = self._place()
            self._progress("checking on the device", 0, 1)
            self._releases.verify(folder, self._hashes)
            self._note("hashes", True, f"{len(self._hashes)} files arrived as they were sent")
            self._note("signature", None, "a phone checks hashes only, no signatures")
            self._note("agreement", None, "benchmark_model gives no outputs to compare with the host's")
            self._progress("measuring on the device", 0, 1)
            measured = _measure(self._bench, self._measured_with, self._releases.reachable(folder, MODEL))
            self._hold_to_limit(measured)
            shipped = self._result(measured, None, dry_run)
            if require_promise:
                self._refuse_unkept(shipped)
            if dry_run:
                self._clear()
                return shipped
            if staged:
                self._releases.adopt(self._name, self._release)
            self._activate(shipped)
            self._releases.prune(self._name, keep)
        return dataclasses.replace(shipped, active=self._release)

    def _live(self) -> int | None:
        return self._releases.state(self._name).live

    def _clear(self, *sent: str) -> None:
        self._releases.discard(self._name)

    def _activate(self, shipped: Shipped) -> None:
        if self._before == self._release:
            return
        self._progress("making it live", 0, 1)
        self._switching = True
        record = {"record": self._record(shipped)}
        _switch(self._device, self._releases, self._name, self._release, self._before, self._hashes, "activate", record)

    def _refuse_older(self) -> None:
        """A release is never followed by an older one; `rollback` is the way back."""
        newest = self._there.newest
        if self._release < newest and self._release != self._there.live:
            raise CheckFailedError(
                f"{self._device.name}: release {self._release} of {self._name} is older than release {newest}, "
                "which this device has had; back to what it still keeps: edgenas rollback; a bundle gets a new number "
                f"with: edgenas sign BUNDLE --after {newest}."
            )

    def _place(self) -> tuple[str, bool]:
        """The release's folder on the phone, its files in it, and whether it is only staged."""
        if self._is_there():
            return self._releases.folder(self._name, self._release), False
        size_bytes = sum(path.stat().st_size for path in self._sources.values())
        staging = self._releases.stage(self._name, size_bytes)
        for number, (file, path) in enumerate(self._sources.items()):
            self._progress("sending", number, len(self._sources))
            self._releases.put(path, staging, file)
        return staging, True

    def _is_there(self) -> bool:
        """Whether the release has its folder already; one that is damaged and was never live is removed."""
        if self._release not in self._there.releases:
            return False
        if self._release != self._there.live:
            try:
                self._releases.verify(self._releases.folder(self._name, self._release), self._hashes)
            except CheckFailedError:
                if self._release in self._there.were_live:
                    raise
                self._releases.remove(self._name, self._release)
                return False
        return True
