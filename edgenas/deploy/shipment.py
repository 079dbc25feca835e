"""What every shipment does, whatever the device: its files, its limit, its promise, and what it says in the end."""

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

from edgenas.deploy.agreement import Agreement
from edgenas.deploy.bundle import LABELS, MODEL, Bundle
from edgenas.deploy.manifest import FILE
from edgenas.deploy.promise import Measured, Promise
from edgenas.deploy.shipped import Check, Shipped
from edgenas.device import Device
from edgenas.device.agent.signatures import SIGNATURE
from edgenas.errors import CheckFailedError, EdgeNASError, InputError, UnreachableError
from edgenas.files import sha256
from edgenas.latency.profiling.bench import Progress
from edgenas.latency.table import LatencyTable

# What goes live. The samples travel only for the check and are removed: they may be private.
RELEASED = (MODEL, LABELS, FILE, SIGNATURE)
_SLOWEST_BYTES_PER_S = 5_000  # a link that brings less is given up


def upload_s(size_bytes: int) -> float:
    """How long the upload of a file may take."""
    return 600 + size_bytes / _SLOWEST_BYTES_PER_S


def threads_of(bundle: Bundle, table: LatencyTable | None) -> int:
    """Of one inference: the table's, or those of the table that the bundle rests on."""
    if table is not None:
        return table.identity.threads
    used = bundle.manifest.table
    return 1 if used is None else used.identity.threads


def refuse_threads(device: Device, threads: int, cores: int) -> None:
    """Raise `InputError` for more threads than the device has cores: they only disturb each other."""
    if threads > cores:
        raise InputError(
            f"{device.name}: the latency table asks for {threads} threads an inference, and the device has {cores} "
            "cores. Nothing was sent. Profile the device with fewer, and search with that table."
        )


class Shipment(abc.ABC):
    """One bundle on its way to one device.

    Args:
        bundle, precision: what is shipped.
        name: of the model there.
        device: where to.
        table: of that device, or None.
        promise: what the table promises there.
        before: the release that is live.
        progress: told what is being done.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        name: str,
        device: Device,
        table: LatencyTable | None,
        promise: Promise,
        before: int | None,
        progress: Progress,
    ) -> None:
        self._bundle = bundle
        self._precision = precision
        self._name = name
        self._device = device
        self._table = table
        self._promise = promise
        self._before = before
        self._progress = progress
        sources = {file: bundle.folder / file for file in RELEASED} | {MODEL: bundle.model_of(precision)}
        self._sources = {file: path for file, path in sources.items() if path.is_file()}
        self._hashes = {file: sha256(path) for file, path in self._sources.items()}
        self._threads = threads_of(bundle, table)
        self._switching = False
        self._checks: list[Check] = []

    @property
    def _release(self) -> int:
        return self._bundle.manifest.release

    @property
    def _measured_with(self) -> LatencyTable | None:
        """The table whose networks are measured beside the model: none, where nothing is promised."""
        return None if self._promise.highest_ms is None else self._table

    @property
    def _limit_ms(self) -> float | None:
        """The stricter of the study's limit and the device's own."""
        limits = (self._bundle.manifest.limits.get("max_latency_ms"), self._device.limits.max_latency_ms)
        return min((limit for limit in limits if limit is not None), default=None)

    @abc.abstractmethod
    def _live(self) -> int | None:
        """The release that is live now."""

    @abc.abstractmethod
    def _clear(self, *sent: str) -> None:
        """Remove what was staged, and files (SHA-256) that were sent, where the device can still be reached."""

    @contextlib.contextmanager
    def _cleared_up(self) -> Iterator[None]:
        """Left by an error, nothing stays on the device but what a cut upload goes on with, and the error says what is
        live."""
        try:
            yield
        except EdgeNASError as error:
            cut = isinstance(error, UnreachableError)  # then what came stays: the same command goes on with it
            with contextlib.suppress(EdgeNASError):
                self._clear(*(() if cut else self._hashes.values()))
            error.args = (f"{error} {self._what_is_live()}",)
            raise
        except BaseException:
            with contextlib.suppress(EdgeNASError):
                self._clear()
            raise

    def _note(self, name: str, passed: bool | None, detail: str) -> None:
        self._checks.append(Check(name, passed, detail))

    def _hold_to_limit(self, measured: Measured) -> None:
        """Raise `CheckFailedError` where even the lower end of what was measured is over the limit.

        Other work only slows a model down: on a disturbed device that end is no higher than what the table predicts.
        """
        limit = self._limit_ms
        if limit is None:
            return
        low, high = measured.interval_ms
        if measured.steadiness.disturbed and self._promise.predicted_ms is not None:
            low = min(low, self._promise.predicted_ms)
        detail = f"{measured.median_ms:.4g} ms measured ({low:.4g} to {high:.4g}), at most {limit:.4g} ms allowed"
        self._note("limit", low <= limit, detail)
        if low > limit:
            raise CheckFailedError(f"{self._device.name}: the model is slower than its limit: {detail}.")

    def _result(self, measured: Measured, agreement: Agreement | None, dry_run: bool) -> Shipped:
        said = self._promise
        disturbed = measured.steadiness.disturbed
        kept = None if disturbed else said.kept(measured.normalised_ms)
        if said.gap is not None:
            self._note("promise", None, said.gap)
        elif disturbed:
            self._note("promise", None, f"not judged: the device is busy ({measured.steadiness})")
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
            release=self._release,
            latency_ms={"median": measured.median_ms, "p90": measured.p90_ms},
            latency_interval_ms=measured.interval_ms,
            normalised_ms=measured.normalised_ms,
            predicted_ms=self._predicted_ms,
            limit_ms=self._limit_ms,
            promise=_verdict(said, disturbed, kept),
            promise_kept=kept,
            steadiness=measured.steadiness.grade,
            checks=tuple(self._checks),
            dry_run=dry_run,
        )

    def _refuse_unkept(self, shipped: Shipped) -> None:
        """Raise `CheckFailedError` where the promise was not judged, or is not kept."""
        if shipped.promise != "kept":
            detail = next(check.detail for check in shipped.checks if check.name == "promise")
            why = detail.removeprefix(f"{shipped.promise}: ")
            raise CheckFailedError(f"{self._device.name}: the promise is required and is {shipped.promise}: {why}.")

    @property
    def _predicted_ms(self) -> float | None:
        """By the table; without one, by the bundle's, which is of the precision that it was made for."""
        manifest = self._bundle.manifest
        if self._table is None and self._precision == manifest.precision:
            return manifest.predicted.latency_ms
        return self._promise.predicted_ms

    def _record(self, shipped: Shipped) -> dict[str, Any]:
        """What the device keeps of this release, for `deployed` and `verify`."""
        manifest = self._bundle.manifest
        accuracy = manifest.accuracy
        return {
            "study": manifest.study.name,
            "candidate": manifest.study.candidate,
            "architecture": manifest.architecture.id,
            "precision": self._precision,
            "threads": self._threads,
            "test_accuracy": accuracy.test if self._precision == manifest.precision else accuracy.float_test,
            "latency_ms": shipped.latency_ms,
            "predicted_ms": shipped.predicted_ms,
            "agreement_on_device": shipped.agreement_on_device,
            "sha256": self._hashes,
        }

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
            live = self._before  # only the switch changes it
        if live not in (None, self._before):
            if live == self._release:
                return f"The new release {live} of {self._name!r} is live all the same."
            return f"Release {live} of {self._name!r} is live: somebody else made it so meanwhile."
        if live is None:
            return f"Nothing was put live: {self._name!r} has no release on {self._device.name}."
        return f"The old model is still live: release {live} of {self._name!r}."


def _verdict(promise: Promise, disturbed: bool, kept: bool | None) -> str:
    if promise.gap is not None:
        return "unbacked"
    if disturbed or kept is None:
        return "not judged"
    return "kept" if kept else "broken"
