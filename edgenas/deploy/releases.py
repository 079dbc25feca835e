"""What is live on a device, and the way back."""

from dataclasses import dataclass
from typing import Any

from edgenas.device import Agent, Device, connect
from edgenas.errors import DeviceError, InputError
from edgenas.files import check_name, from_mapping


@dataclass(frozen=True)
class Deployed:
    """A model that is live on a device.

    Attributes:
        name: of the model there.
        release: its number, growing with each one shipped.
        previous: the release that `rollback` would make live; None: there is none.
        since: when it was made live (UTC, by the device's clock).
        record: what was known of it when it was shipped.
    """

    name: str
    release: int
    previous: int | None
    since: str | None
    record: dict[str, Any] | None


@dataclass(frozen=True)
class RolledBack:
    """The release of `name` that is live again, and the one that was before."""

    name: str
    device: str
    active: int
    previous: int | None


def deployed(device: Device, to_app: str | None = None) -> list[Deployed]:
    """What is live on a device, by name.

    Args:
        device: where.
        to_app: of a phone: the app whose own files are meant.

    Raises:
        DeviceError: unreachable, or its answer makes no sense.
    """
    if device.address.kind == "adb":
        from edgenas.deploy.phones import deployed_on_phone

        return deployed_on_phone(device, to_app)
    refuse_app(device, to_app)
    with connect(device) as connection, connection.open_agent() as agent:
        return releases_on(agent)


def rollback(device: Device, name: str, to_app: str | None = None) -> RolledBack:
    """Make the release that was live before the live one again.

    Args:
        device, name: where, and of which model.
        to_app: of a phone: the app whose own files are meant.

    Raises:
        CheckFailedError: there is no earlier release on the device.
        DeviceError: unreachable.
        InputError: no model of that name was ever put there.
    """
    check_name("model", name)
    if device.address.kind == "adb":
        from edgenas.deploy.phones import roll_back_phone

        return roll_back_phone(device, name, to_app)
    refuse_app(device, to_app)
    with connect(device) as connection, connection.open_agent() as agent:
        answer = agent.call("rollback", name=name)
        try:
            before = answer["from"]
            return RolledBack(name, device.name, int(answer["release"]), None if before is None else int(before))
        except (KeyError, TypeError, ValueError):
            raise DeviceError(f"{device.name}: its answer to 'rollback' makes no sense: {answer!r}.") from None


def refuse_app(device: Device, to_app: str | None) -> None:
    """Raise `InputError` where an app is named on what is no phone."""
    if to_app is not None:
        raise InputError(f"{device.name} ({device.url}) is no phone: only a phone has apps (--to-app {to_app}).")


def releases_on(agent: Agent) -> list[Deployed]:
    """What is live, asked of an agent that is running already."""
    answer = agent.call("deployed")
    try:
        found = [from_mapping(Deployed, item, f"{agent.device.name} says") for item in answer]
    except (InputError, TypeError) as error:
        raise DeviceError(f"The agent's answer to 'deployed' makes no sense. {error}") from None
    return sorted(found, key=lambda item: item.name)
