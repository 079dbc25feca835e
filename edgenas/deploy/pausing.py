"""What runs on a device, stopped while a model is measured there, and started again by the device itself."""

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgenas.device import Agent
from edgenas.errors import DeviceError, EdgeNASError, InputError


@dataclass(frozen=True)
class Pause:
    """What to stop: a systemd unit, or what two commands stop and start.

    Attributes:
        unit: the unit's name.
        stop, start: commands as a shell splits words; no shell runs them.
    """

    unit: str | None = None
    stop: str | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        if (self.unit is None) == (self.stop is None) or (self.stop is None) != (self.start is None):
            raise InputError("Expected --pause UNIT, or --pause-command together with --resume-command.")
        try:
            words = [shlex.split(command) for command in (self.stop, self.start) if command is not None]
        except ValueError as error:
            raise InputError(f"A command cannot be split into words: {error}.") from None
        if not all(words):
            raise InputError("Expected a command, received nothing.")


@contextlib.contextmanager
def paused(agent: Agent, pause: Pause | None) -> Iterator[None]:
    """Within, what `pause` names does not run; when this ends without an error, it runs again.

    Whatever dies meanwhile, the device starts it again by itself.

    Raises:
        DeviceError: missing rights (nothing was stopped), or it could not be stopped, or does not run again.
        InputError: there is no such unit or command there.
    """
    if pause is None:
        yield
        return
    commands: dict[str, Any] = {
        name: shlex.split(command) for name in ("stop", "start") if (command := getattr(pause, name))
    }
    agent.call("pause", timeout_s=120, unit=pause.unit, **commands)
    try:
        yield
    except BaseException:
        with contextlib.suppress(EdgeNASError):  # the device does it by itself when this agent ends
            agent.call("resume", timeout_s=120)
        raise
    if agent.call("resume", timeout_s=120) != {"resumed": True}:
        raise DeviceError(f"{agent.device.name}: it does not say that what was paused runs again.")
