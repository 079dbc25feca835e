"""`ship`: a bundle to a device, checked there before it goes live. Whatever fails, the old model stays the live one."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from edgenas.deploy.agreement import Agreement, run_samples
from edgenas.deploy.bundle import MODEL, Bundle
from edgenas.deploy.limits import refuse_too_large
from edgenas.deploy.live import refuse_app
from edgenas.deploy.pausing import Pause, paused
from edgenas.deploy.phones import ship_to_phone
from edgenas.deploy.promise import measure_in_place, promise, room_beside
from edgenas.deploy.releases import release_on
from edgenas.deploy.shipment import Shipment, refuse_threads, threads_of, upload_s
from edgenas.deploy.shipped import Shipped
from edgenas.device import Agent, Connection, Device, connect, open_agent
from edgenas.errors import CheckFailedError, DeviceError, InputError, reading
from edgenas.files import check_name
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import mismatch


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
    require_promise: bool = False,
    pause: Pause | None = None,
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
        require_promise: go live only where the table's promise was judged, and is kept.
        pause: of a board: what does not run while the model is measured; it runs again before this goes on.
        progress: called with what is being done, how much of how much.

    Raises:
        CheckFailedError: no room, a hash or a signature that does not match, an older release than the device has had,
            other answers than on the host, slower or larger than its limits, a promise that is required and not kept,
            or a bundle that rests on a simulated table. The old model stays live.
        DeviceError: unreachable, or the link broke. The old model stays live.
        InputError: a bad name, a table of another device, precision or runtime, or of more threads than it has cores.
    """
    check_name("model", name)
    _refuse_simulated(bundle, table)
    precision = precision or bundle.manifest.precision
    refuse_too_large(bundle, precision, device)
    if table is not None:
        why = mismatch(table, device, precision, table.identity.threads)
        if why is not None:
            raise InputError(f"The latency table does not fit: {why}. `edgenas table list` shows those there are.")
    if device.address.kind == "adb":
        if pause is not None:
            raise InputError(f"{device.name} is a phone: nothing is paused there.")
        return ship_to_phone(
            bundle, device, name, precision, table=table, keep=keep, to_app=to_app, dry_run=dry_run,
            require_promise=require_promise, progress=progress,
        )  # fmt: skip
    refuse_app(device, to_app)
    with connect(device) as connection, open_agent(connection) as agent:
        agent.runtime_version(device.runtime.package)
        refuse_threads(device, threads_of(bundle, table), agent.info.cores)
        # Nobody else is measuring or shipping there: what is live before stays so, what is cleared up is our own.
        agent.lock()
        return _BoardShipment(bundle, precision, name, table, connection, agent, progress).run(
            dry_run, keep, require_promise, pause
        )


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


class _BoardShipment(Shipment):
    """One bundle on its way to a device with an agent."""

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
        self._connection = connection
        self._agent = agent
        promised = promise(table, bundle.architecture, agent)
        super().__init__(bundle, precision, name, agent.device, table, promised, _live(agent, name), progress)

    def run(self, dry_run: bool, keep: int, require_promise: bool, pause: Pause | None) -> Shipped:
        """All steps in order."""
        with self._cleared_up():
            self._send()
            staged = self._stage()
            agreement = self._agreement(staged)
            self._progress("measuring on the device", 0, 1)
            with paused(self._agent, pause):
                measured = measure_in_place(
                    self._connection,
                    self._agent,
                    self._measured_with,
                    f"{staged.folder}/{MODEL}",
                    staged.scratch,
                    self._threads,
                )
            self._hold_to_limit(measured)
            shipped = self._result(measured, agreement, dry_run)
            if require_promise:
                self._refuse_unkept(shipped)
            if dry_run:
                self._clear(*self._hashes.values())
                return shipped
            record = self._record(shipped)
            self._progress("making it live", 0, 1)
            self._switching = True
            answer = self._agent.call(
                "activate", name=self._name, release=self._release, folder=staged.folder, record=record, keep=keep
            )
            return _activated(shipped, answer, self._device)

    def _live(self) -> int | None:
        return _live(self._agent, self._name)

    def _clear(self, *sent: str) -> None:
        self._agent.call("discard", timeout_s=10, name=self._name, files=sent, release=self._release)

    def _send(self) -> bool:
        """Send what the device has not; what was cut goes on. Whether there was anything."""
        samples = self._bundle.samples_of(self._precision)
        spare = room_beside(self._measured_with)
        spare += 0 if samples is None else samples.images.nbytes + samples.outputs.nbytes
        sizes = {name: path.stat().st_size for name, path in self._sources.items()}
        files = {name: {"sha256": sha, "size_bytes": sizes[name]} for name, sha in self._hashes.items()}
        answer = self._agent.call("prepare", name=self._name, release=self._release, files=files, spare_bytes=spare)
        with reading(f"{self._device.name}: its answer to 'prepare'", error=DeviceError):
            folder, lacking = str(answer["folder"]), set(answer["lacking"])
        for name, sha in self._hashes.items():
            if sha in lacking:
                self._progress(f"sending {name}", 0, sizes[name])
                self._connection.put(
                    self._sources[name],
                    f"{folder}/{sha}",
                    timeout_s=upload_s(sizes[name]),
                    resume=True,
                    sent=functools.partial(self._progress, f"sending {name}"),
                )
        return bool(lacking)

    def _stage(self) -> "_Staged":
        """Have the device put the release together and verify it, signature included."""
        self._progress("checking on the device", 0, 1)
        try:
            answer = self._stage_once()
        except CheckFailedError:
            if not self._send():  # what is there is not what went on from a beginning that the device's disk lost
                raise
            answer = self._stage_once()
        with reading(f"{self._device.name}: its answer to 'stage'", error=DeviceError):
            staged = _Staged(str(answer["folder"]), str(answer["scratch"]))
            signed_by = None if answer["signed_by"] is None else str(answer["signed_by"])[:16]
        self._note("hashes", True, f"{len(self._hashes)} files arrived as they were sent")
        detail = (
            f"by the trusted key {signed_by}" if signed_by else "the device trusts no key: hashes alone are checked"
        )
        self._note("signature", True if signed_by else None, detail)
        return staged

    def _stage_once(self) -> Any:
        return self._agent.call("stage", name=self._name, release=self._release, files=self._hashes)

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


@dataclass(frozen=True)
class _Staged:
    """Where a release lies on the device before it goes live, and a folder there for its checks."""

    folder: str
    scratch: str


def _live(agent: Agent, name: str) -> int | None:
    found = release_on(agent, name)
    return None if found is None else found.release


def _activated(shipped: Shipped, answer: Any, device: Device) -> Shipped:
    with reading(f"{device.name}: its answer to 'activate'", error=DeviceError):
        before = answer["previous"]
        return dataclasses.replace(
            shipped, active=int(answer["release"]), previous=None if before is None else int(before)
        )
