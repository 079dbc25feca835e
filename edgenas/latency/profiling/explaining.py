"""Why a layer costs what a table says: what the table holds of it, and the kernels that run in it on the device."""

import difflib
from typing import Any

import edgenas.files as files
from edgenas.architecture import Layer
from edgenas.device import Device
from edgenas.errors import EdgeNASError, InputError
from edgenas.latency.profiling.kernels import READING, kernels_in, refuse_silent
from edgenas.latency.table import LatencyTable
from edgenas.model import MODELS, ConversionPool


def find_layer(table: LatencyTable, text: str) -> Layer:
    """The layer of a table that a person typed.

    Raises:
        InputError: it is no layer, or the table lacks it; near ones are named.
    """
    layer = Layer.parse(text)
    if layer not in table.entries:
        names = [str(known) for known in table.entries]
        nearest = difflib.get_close_matches(text, names, n=3, cutoff=0.0)
        raise InputError(f"The latency table holds no layer {text}. The nearest that it holds: {', '.join(nearest)}.")
    return layer


def describe_layer(table: LatencyTable, layer: Layer) -> dict[str, Any]:
    """What a table holds of a layer: `cost_us` is what it adds to a network, `us` what it takes alone."""
    entry = table.entries[layer]
    return {
        "layer": str(layer),
        "us": entry.us,
        "half_width": entry.half_width,
        "cold_us": entry.cold_us,
        "cost_us": round(table.calibration.layer_us(layer, entry.us), 4),
        "macs": layer.macs,
        "parameters": layer.parameters,
    }


def explain_layer(device: Device, table: LatencyTable, layer: Layer) -> dict[str, Any]:
    """What a table holds of a layer, and what runs in it on a device now.

    Returns:
        `describe_layer`'s, and `kernels` [{name, kind, us, count}] with `total_us` and `runtime_version`, or without
        these three where the device cannot tell; `notes` says why, and how to read them.
    """
    described, identity = describe_layer(table, layer), table.identity
    try:
        refuse_silent(identity.runtime)
        with ConversionPool(MODELS, table.precision) as pool:
            model = pool.path(layer)
        found = kernels_in(model, device, identity.threads, identity.cores, identity.runtime)
    except EdgeNASError as error:
        return described | {"notes": [f"The kernels that run in it are not known: {error}"]}
    notes = [READING]
    if found.runtime_version != identity.runtime_version:
        notes.append(
            f"The device has {identity.runtime} {found.runtime_version} now; the table was measured with "
            f"{identity.runtime_version or 'an unknown version'}."
        )
    return described | {
        "kernels": [files.as_mapping(kernel) for kernel in found.kernels],
        "total_us": found.total_us,
        "runtime_version": found.runtime_version,
        "notes": notes,
    }
