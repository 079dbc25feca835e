"""What runs on devices, asked of all of them at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edgenas.deploy.live import Deployed, refuse_app
from edgenas.deploy.phone_releases import check_package
from edgenas.deploy.releases import deployed, verify
from edgenas.device import Device
from edgenas.errors import CheckFailedError, EdgeNASError
from edgenas.latency.profiling.bench import Progress, no_progress

_AT_ONCE = 8


@dataclass(frozen=True)
class Running(Deployed):
    """A model that is live on a device, and how it is there now.

    Attributes:
        device: where.
        latency_ms_now: "median" and "p90"; None: not measured.
        not_measured: why it could not be looked at or timed; None: it could, or nobody tried.
    """

    device: str
    latency_ms_now: dict[str, float] | None = None
    not_measured: str | None = None


@dataclass(frozen=True)
class Overview:
    """What runs where.

    Attributes:
        models: by device, in the order asked for, then by name.
        unreached: device -> why it could not be asked.
    """

    models: tuple[Running, ...]
    unreached: dict[str, str]


def overview(
    devices: Sequence[Device], *, measure: bool = False, to_app: str | None = None, progress: Progress = no_progress
) -> Overview:
    """What is live on devices; whatever is with one of them, the others are asked all the same.

    Args:
        measure: check and time each model, in place.
        to_app: of phones: the app whose own files are meant.
        progress: called with what is being done, how much of how much.

    Raises:
        InputError: an app, and a device that is no phone; or no name of an app.
    """
    for device in devices:
        refuse_app(device, to_app)
    if to_app is not None:
        check_package(to_app)
    asked = 0

    def ask(device: Device) -> tuple[list[Running], str | None]:
        nonlocal asked
        try:
            found = deployed(device, to_app=to_app)
            return [_look(device, one, measure, to_app) for one in found], None
        except EdgeNASError as error:  # off, refused us, or its settings are wrong
            return [], str(error)
        finally:
            asked += 1
            progress("asking the devices", asked, len(devices))

    with ThreadPoolExecutor(_AT_ONCE) as hands:
        answers = dict(zip([device.name for device in devices], hands.map(ask, devices), strict=True))
    return Overview(
        tuple(model for models, _ in answers.values() for model in models),
        {name: why for name, (_, why) in answers.items() if why is not None},
    )


def _look(device: Device, one: Deployed, measure: bool, to_app: str | None) -> Running:
    now, wrong, not_measured = None, one.wrong, None
    if measure:
        try:
            now = verify(device, one.name, to_app=to_app).latency_ms
        except CheckFailedError as error:
            wrong = str(error)
        except EdgeNASError as error:
            not_measured = str(error)
    return Running(**vars(one) | {"wrong": wrong}, device=device.name, latency_ms_now=now, not_measured=not_measured)
