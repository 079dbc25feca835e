"""Whether a model is within what its device's file allows, before anything of it is sent."""

import dataclasses

import edgenas.files as files
from edgenas.deploy import gates
from edgenas.deploy.bundle import Bundle
from edgenas.deploy.manifest import Predicted
from edgenas.device import Device
from edgenas.errors import CheckFailedError
from edgenas.latency import memory


def refuse_too_large(bundle: Bundle, precision: str, device: Device) -> None:
    """Hold a bundle's model to its device's limits on memory; the one on latency is held to what is measured there.

    Raises:
        CheckFailedError: a limit is broken; the text has both figures.
    """
    asked = {name: most for name, most in files.as_mapping(device.limits).items() if name != "max_latency_ms"}
    size_kb = bundle.model_of(precision).stat().st_size / 1024
    found = gates.limits(asked, _predicted(bundle, precision), size_kb)
    if not found.passed:
        raise CheckFailedError(
            f"{device.name}: the model is over the device's limits: {found.detail}. Nothing was sent. Search for one "
            f"within them (edgenas search --device {device.name}), or raise them under [limits] in its file."
        )


def _predicted(bundle: Bundle, precision: str) -> Predicted:
    """What the manifest says; it says it of the precision that the bundle was made for."""
    said = bundle.manifest.predicted
    if precision == bundle.manifest.precision:
        return said
    return dataclasses.replace(said, arena_kb=float(memory.arena_kb([bundle.architecture], precision)[0]))
