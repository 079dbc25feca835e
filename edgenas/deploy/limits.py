"""Whether a model is within what its device's file and its study allow, before anything of it is sent."""

import dataclasses
from collections.abc import Mapping

import edgenas.files as files
from edgenas.deploy import gates
from edgenas.deploy.bundle import Bundle
from edgenas.deploy.manifest import Predicted
from edgenas.device import Device
from edgenas.errors import CheckFailedError
from edgenas.latency import memory


def refuse_too_large(bundle: Bundle, precision: str, device: Device) -> None:
    """Hold a bundle's model to its device's limits on memory; the one on latency is held to what is measured there.

    A file of another precision than the bundle was made for is held to the study's limits as well: the gate looked at
    the one that it was made for. Who allowed that one to break them meant the other too.

    Raises:
        CheckFailedError: a limit is broken; the text has both figures.
    """
    manifest = bundle.manifest
    _refuse(
        bundle,
        precision,
        files.as_mapping(device.limits),
        f"{device.name}: the model is over the device's limits",
        f"Search for one within them (edgenas search --device {device.name}), or raise them under [limits] in its file",
    )
    waived = any(gate.name == gates.LIMITS and gate.allowed for gate in manifest.gates)
    if precision != manifest.precision and not waived:
        _refuse(
            bundle,
            precision,
            manifest.limits,
            f"{device.name}: the {precision} model is over the limits of its study",
            f"Ship the {manifest.precision} one, or let it pass when it is trained: edgenas train "
            f"{manifest.study.name} --pick {manifest.study.candidate} --precision {precision} --allow {gates.LIMITS}",
        )


def _refuse(bundle: Bundle, precision: str, limits: Mapping[str, float | None], what: str, remedy: str) -> None:
    asked = {name: most for name, most in limits.items() if name != "max_latency_ms"}
    size_kb = bundle.model_of(precision).stat().st_size / 1024
    found = gates.limits(asked, _predicted(bundle, precision), size_kb)
    if not found.passed:
        raise CheckFailedError(f"{what}: {found.detail}. Nothing was sent. {remedy}.")


def _predicted(bundle: Bundle, precision: str) -> Predicted:
    """What the manifest says; it says it of the precision that the bundle was made for."""
    said = bundle.manifest.predicted
    if precision == bundle.manifest.precision:
        return said
    return dataclasses.replace(said, arena_kb=float(memory.arena_kb([bundle.architecture], precision)[0]))
