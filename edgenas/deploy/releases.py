"""What is live on a device, whether it is still whole, and the way back."""

import contextlib
from dataclasses import dataclass
from typing import Any

from edgenas.deploy.agreement import Agreement, run_samples
from edgenas.deploy.bundle import MODEL, Bundle
from edgenas.deploy.live import Deployed, RolledBack, Verified, refuse_another, refuse_app, threads_in, verified
from edgenas.deploy.phones import deployed_on_phone, roll_back_phone, verify_on_phone
from edgenas.deploy.promise import measure_in_place
from edgenas.device import Agent, Connection, Device, connect, open_agent
from edgenas.errors import CheckFailedError, DeviceError, EdgeNASError, InputError, reading
from edgenas.files import check_name, from_mapping
from edgenas.latency.profiling.bench import Progress, no_progress


def deployed(device: Device, *, to_app: str | None = None) -> list[Deployed]:
    """What is live on a device, by name.

    Args:
        device: where.
        to_app: of a phone: the app whose own files are meant.

    Raises:
        DeviceError: unreachable, or its answer makes no sense.
    """
    if device.address.kind == "adb":
        return deployed_on_phone(device, to_app)
    refuse_app(device, to_app)
    with connect(device) as connection, open_agent(connection) as agent:
        return releases_on(agent)


def rollback(device: Device, name: str, to: int | None = None, *, to_app: str | None = None) -> RolledBack:
    """Make an earlier release the live one again.

    Cut anywhere, the same call goes back to the same release on a board; on a phone where it was cut before its note.

    Args:
        to: a release that the device still keeps; None: the one that was live before.
        to_app: of a phone: the app whose own files are meant.

    Raises:
        CheckFailedError: there is no such release on the device, or it is not whole.
        WentBackError: it could not be made live; what was live before is again.
        DeviceError: unreachable.
        InputError: no model of that name was ever put there.
    """
    check_name("model", name)
    if device.address.kind == "adb":
        return roll_back_phone(device, name, to, to_app)
    refuse_app(device, to_app)
    with connect(device) as connection, open_agent(connection) as agent:
        answer = agent.call("rollback", name=name, to=to)
        with reading(f"{device.name}: its answer to 'rollback'", error=DeviceError):
            before = answer["from"]
            done = RolledBack(name, device.name, int(answer["release"]), None if before is None else int(before))
        # It is done: should this not arrive, no more is lost than that the next rollback gives the same answer.
        with contextlib.suppress(EdgeNASError):
            agent.call("heard", name=name, release=done.active)
        return done


def verify(
    device: Device,
    name: str,
    *,
    bundle: Bundle | None = None,
    to_app: str | None = None,
    measure: bool = True,
    progress: Progress = no_progress,
) -> Verified:
    """Check the live release of a model where it lies: hashes, signature, samples, latency. Nothing is changed.

    Args:
        bundle: what was shipped, for its samples; without it, and on a phone, they are not run.
        to_app: of a phone: the app whose own files are meant.
        measure: whether to time it.
        progress: called with what is being done, how much of how much.

    Raises:
        CheckFailedError: a file or a signature that is not what it was, another release than the bundle's, or other
            answers than on the host.
        DeviceError: unreachable, somebody else measures there, or too disturbed to measure.
        InputError: no model of that name is there.
    """
    check_name("model", name)
    if device.address.kind == "adb":
        return verify_on_phone(device, name, bundle=bundle, to_app=to_app, measure=measure, progress=progress)
    refuse_app(device, to_app)
    with connect(device) as connection, open_agent(connection) as agent:
        answer = agent.call("verify", name=name)
        with reading(f"{device.name}: its answer to 'verify'", error=DeviceError):
            release, folder, manifest = int(answer["release"]), str(answer["folder"]), str(answer["manifest_sha256"])
            signed_by = None if answer["signed_by"] is None else str(answer["signed_by"])[:16]
        refuse_another(device, name, release, manifest, bundle)
        found = release_on(agent, name)
        record = (found and found.record) or {}
        scratch = f"{connection.folder}/verify"
        agent.lock()  # nobody else is measuring there, or uses that folder
        connection.run(["rm", "-rf", "--", scratch])  # what a broken link left
        try:
            agreement = _agreement(connection, agent, bundle, record, f"{folder}/{MODEL}", scratch, progress)
            measured = None
            if measure:
                progress("measuring on the device", 0, 1)
                agent.runtime_version(device.runtime.package)
                threads = threads_in(record)
                measured = measure_in_place(connection, agent, None, f"{folder}/{MODEL}", scratch, threads)
        finally:
            with contextlib.suppress(DeviceError):  # a link that broke has said so already
                connection.run(["rm", "-rf", "--", scratch])
    return verified(device, name, release, record, measured, signed_by, agreement)


def _agreement(
    connection: Connection,
    agent: Agent,
    bundle: Bundle | None,
    record: dict[str, Any],
    model: str,
    scratch: str,
    progress: Progress,
) -> Agreement | None:
    """What the live model makes of the bundle's samples; None without them."""
    if bundle is None:
        return None
    samples = bundle.samples_of(str(record.get("precision") or bundle.manifest.precision))
    if samples is None:
        return None
    found = run_samples(connection, agent, model, samples, scratch, threads_in(record), progress)
    if not found.enough:
        raise CheckFailedError(f"{agent.device.name}: {found.complaint}")
    return found


def releases_on(agent: Agent) -> list[Deployed]:
    """What is live, asked of an agent that is running already."""
    answer = {"live": agent.call("deployed")}
    try:
        found = from_mapping(_Answer, answer, f"{agent.device.name} says").live
    except InputError as error:
        raise DeviceError(f"The agent's answer to 'deployed' makes no sense. {error}") from error
    return sorted(found, key=lambda item: item.name)


def release_on(agent: Agent, name: str) -> Deployed | None:
    """What is live of a model; None: nothing is.

    Raises:
        CheckFailedError: it cannot be told.
    """
    found = next((one for one in releases_on(agent) if one.name == name), None)
    if found is not None and found.release is None:
        raise CheckFailedError(f"{agent.device.name}: {found.wrong or f'it does not say what is live of {name}'}")
    return found


@dataclass(frozen=True)
class _Answer:
    """A device's to 'deployed'."""

    live: tuple[Deployed, ...]
