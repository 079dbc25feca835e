"""Bundles to phones: sent, verified by hash, measured with benchmark_model, then made live; and the way back.

A phone has no Python, so nothing there can check a signature or compare outputs: the checks say so.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files
from edgenas.deploy.bundle import LABELS, MODEL, Bundle
from edgenas.deploy.manifest import FILE
from edgenas.deploy.phone_releases import PhoneReleases, State
from edgenas.deploy.promise import Measured, promise, reference_model
from edgenas.deploy.releases import Deployed, RolledBack
from edgenas.deploy.shipping import RELEASED, Check, Shipped
from edgenas.device import Device, connect
from edgenas.errors import CheckFailedError, EdgeNASError, InputError
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.profiling.measuring import REFERENCE
from edgenas.latency.profiling.phone import PhoneBench
from edgenas.latency.table import LatencyTable
from edgenas.model import convert_network


@dataclass(frozen=True)
class Verified:
    """A live release that was looked at again; `checks` say what at."""

    name: str
    device: str
    release: int
    checks: tuple[Check, ...]


def ship_to_phone(
    bundle: Bundle,
    device: Device,
    name: str,
    *,
    table: LatencyTable | None = None,
    to_app: str | None = None,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Shipped:
    """Send a bundle to a phone, check it there, and make it the live model of that name.

    Args:
        bundle, device, name, table, dry_run, progress: as of `ship`.
        to_app: a debuggable app's package: the model goes into its own files, `files/edgenas/NAME/`.

    Raises:
        CheckFailedError: no room, a hash that does not match, or slower than its limit. The old model stays live.
        DeviceError: unreachable, the link broke, or the app is not debuggable. The old model stays live.
        InputError: no name of a package.
    """
    with PhoneBench(device, _threads(bundle, table), progress) as bench:
        releases = PhoneReleases(bench.phone.connection, to_app)
        release = releases.state(name).newest + 1
        return _Shipment(bundle, name, table, bench, releases, release, to_app is not None, progress).run(dry_run)


def deployed_on_phone(device: Device, to_app: str | None = None) -> list[Deployed]:
    """What is live on a phone, by name; see `deployed`."""
    with connect(device) as connection:
        releases = PhoneReleases(connection, to_app)
        states = {name: releases.state(name) for name in releases.names()}
    return [_deployed(name, state) for name, state in states.items() if state.live is not None]


def roll_back_phone(device: Device, name: str, to_app: str | None = None) -> RolledBack:
    """Make the release that was live before the live one again; see `rollback`."""
    with connect(device) as connection:
        releases = PhoneReleases(connection, to_app)
        state = releases.state(name)
        if not state.releases and not state.events:
            raise InputError(f"{device.name}: no model {name!r} was ever put on this device.")
        if state.previous is None:
            raise CheckFailedError(f"{device.name}: {name} has no earlier release on this device.")
        releases.switch(name, state.previous, {"event": "rollback", "from": state.live})
        return RolledBack(name, device.name, state.previous, state.live)


def verify_on_phone(device: Device, name: str, to_app: str | None = None) -> Verified:
    """Hash the live release's files again, where they are.

    Raises:
        CheckFailedError: a file that is missing, or not what was sent.
        DeviceError: unreachable.
        InputError: no such model is live.
    """
    with connect(device) as connection:
        releases = PhoneReleases(connection, to_app)
        state = releases.state(name)
        if state.live is None:
            raise InputError(f"{device.name}: no model {name!r} is live there.")
        hashes = _hashes_sent(state)
        if hashes is None:
            raise CheckFailedError(
                f"{device.name}: the history of {name} does not say what release {state.live} holds."
            )
        releases.verify(releases.folder(name, state.live), hashes)
    checks = Check("hashes", True, f"{len(hashes)} files are as they were sent"), _NO_SIGNATURE
    return Verified(name, device.name, state.live, checks)


_NO_SIGNATURE = Check("signature", None, "a phone checks hashes only, no signatures")


def _deployed(name: str, state: State) -> Deployed:
    assert state.live is not None
    events = [event for event in state.events if event["release"] == state.live]
    records = [event["record"] for event in events if isinstance(event.get("record"), dict)]
    since = events[-1]["at"] if events else None
    return Deployed(name, state.live, state.previous, since, records[-1] if records else None)


def _hashes_sent(state: State) -> dict[str, str] | None:
    """What the history says the live release's files are."""
    assert state.live is not None
    record = _deployed("", state).record or {}
    hashes = record.get("sha256")
    if isinstance(hashes, dict) and set(hashes) == set(RELEASED):
        return {str(file): str(digest) for file, digest in hashes.items()}
    return None


def _threads(bundle: Bundle, table: LatencyTable | None) -> int:
    if table is not None:
        return table.identity.threads
    used = bundle.manifest.table
    return 1 if used is None else used.identity.threads


class _Shipment:
    """One bundle on its way to one phone, as the release of a number."""

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        table: LatencyTable | None,
        bench: PhoneBench,
        releases: PhoneReleases,
        release: int,
        in_app: bool,
        progress: Progress,
    ) -> None:
        self._bundle = bundle
        self._name = name
        self._table = table
        self._bench = bench
        self._releases = releases
        self._release = release
        self._in_app = in_app
        self._progress = progress
        self._promise = promise(table, bundle.architecture, bench.phone)
        self._before = releases.state(name)
        self._switching = False
        self._checks: list[Check] = []

    def run(self, dry_run: bool) -> Shipped:
        """All steps in order."""
        hashes = {MODEL: self._bundle.manifest.files[MODEL], LABELS: self._bundle.manifest.files[LABELS],
                  FILE: files.sha256(self._bundle.folder / FILE)}  # fmt: skip
        there = self._release in self._before.releases  # a shipment that was cut just before the switch
        self._refuse_older(there)
        with self._placed(there) as folder:
            self._progress("checking on the device", 0, 1)
            self._releases.verify(folder, hashes)
            self._note("hashes", True, f"{len(hashes)} files arrived as they were sent")
            self._checks.append(_NO_SIGNATURE)
            self._note("agreement", None, "benchmark_model gives no outputs to compare with the host's")
            measured = self._latency(folder)
            shipped = self._result(measured, dry_run)
            if dry_run:
                self._releases.discard(self._name)
            elif self._release != self._before.live:
                self._switching = True
                record = self._record(shipped, hashes)
                self._releases.activate(self._name, self._release, record, staged=not there)
            return shipped

    def _refuse_older(self, there: bool) -> None:
        """A release that was there and went, or that comes after a newer one, is no new one."""
        newest = (self._before.live or 0) if there else self._before.newest + 1
        if self._release < newest:
            raise CheckFailedError(
                f"{self._bench.device.name}: this is release {self._release} of {self._name}, and the phone has had "
                f"release {self._before.newest} already: an older one goes live by rollback only."
            )

    @contextlib.contextmanager
    def _placed(self, there: bool) -> Iterator[str]:
        """The release's folder on the phone, its files in it; left by an error, what is staged is removed and the
        error says what is live."""
        try:
            if there:
                folder = self._releases.folder(self._name, self._release)
            else:
                size_bytes = sum((self._bundle.folder / file).stat().st_size for file in RELEASED)
                folder = self._releases.stage(self._name, size_bytes)
                for number, file in enumerate(RELEASED):
                    self._progress("sending", number, len(RELEASED))
                    self._releases.put(self._bundle.folder / file, folder, file)
            yield folder
        except EdgeNASError as error:
            self._discard()
            error.args = (f"{error} {self._what_is_live()}",)
            raise
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        """Remove the staging folder where the phone can still be reached; the next `stage` removes it otherwise."""
        with contextlib.suppress(EdgeNASError):
            self._releases.discard(self._name)

    def _latency(self, placed: str) -> Measured:
        """How long it takes there beside the reference model, and whether that keeps its limit."""
        self._progress("measuring on the device", 0, 1)
        table = self._table
        with tempfile.TemporaryDirectory() as folder:
            reference = Path(folder) / "reference.tflite"
            files.write_atomically(
                reference, convert_network(REFERENCE, "float32") if table is None else reference_model(table)
            )
            (beside,) = self._bench.send(reference)
        # In an app's own files benchmark_model cannot read it.
        model = self._bench.send(self._bundle.model_path)[0] if self._in_app else f"{placed}/{MODEL}"
        rounds = self._bench.measure_there([model], beside)
        ratio = rounds.ratios[0]
        if ratio is None:
            raise CheckFailedError(f"{self._bench.device.name}: the model does not run there: {rounds.failed[0]}.")
        median, p90 = (float(ms) for ms in np.percentile(rounds.visits_us[0], [50, 90]) / 1000)
        limit = self._limit_ms
        if limit is not None:
            detail = f"{median:.4g} ms measured, at most {limit:.4g} ms allowed"
            self._note("limit", median <= limit, detail)
            if median > limit:
                raise CheckFailedError(f"{self._bench.device.name}: the model is slower than its limit: {detail}.")
        return Measured(median, p90, None if table is None else ratio.value * table.reference[1] / 1000)

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
            active=self._before.live if dry_run else self._release,
            previous=self._before.live,
            agreement_on_device=None,
            largest_difference=None,
            latency_ms={"median": measured.median_ms, "p90": measured.p90_ms},
            normalised_ms=measured.normalised_ms if said.gap is None else None,
            predicted_ms=self._bundle.manifest.predicted.latency_ms if self._table is None else said.predicted_ms,
            limit_ms=self._limit_ms,
            promise="unbacked" if kept is None else "kept" if kept else "broken",
            promise_kept=kept,
            checks=tuple(self._checks),
            dry_run=dry_run,
        )

    def _record(self, shipped: Shipped, hashes: dict[str, str]) -> dict[str, Any]:
        """What the phone keeps of this release, for `deployed` and `verify`."""
        manifest = self._bundle.manifest
        return {
            "study": manifest.study.name,
            "candidate": manifest.study.candidate,
            "architecture": manifest.architecture.id,
            "precision": manifest.precision,
            "test_accuracy": manifest.accuracy.test,
            "latency_ms": shipped.latency_ms,
            "predicted_ms": shipped.predicted_ms,
            "agreement_on_device": None,
            "model_sha256": hashes[MODEL],
            "sha256": hashes,
        }

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
