"""Why a layer costs what a table says: what the table holds of it, and the kernels that run in it on the device."""

import contextlib
import difflib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgenas.files as files
from edgenas.architecture import Layer
from edgenas.device import Device, connect, open_phone
from edgenas.errors import DeviceError, EdgeNASError, InputError
from edgenas.latency.profiling.benchmark_output import read_operators
from edgenas.latency.profiling.phone import why_it_failed
from edgenas.latency.table import LatencyTable
from edgenas.model import MODELS, ConversionPool

# The runtimes that name their kernels: one on devices with Python, one on phones.
PROFILED, PHONE = "ai-edge-litert", "benchmark-model"
RUNS = 100
SILENCE_S = 120


@dataclass(frozen=True)
class Kernel:
    """A kernel that ran in a layer.

    Attributes:
        name: as the runtime writes it.
        kind: "delegate kernel" (of XNNPACK) or "operator" (TFLite's own, where no delegate took it).
        us: microseconds of all its calls in one inference, each rounded down to whole ones.
        count: calls in one inference.
    """

    name: str
    kind: str
    us: float
    count: int


@dataclass(frozen=True)
class _Answer:
    """What the agent's `kernels` gives."""

    runtime_version: str
    runs: int
    kernels: tuple[Kernel, ...]
    total_us: float


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
    described = describe_layer(table, layer)
    try:
        answer = (
            _phone_kernels(device, table, layer) if table.identity.runtime == PHONE else _kernels(device, table, layer)
        )
    except EdgeNASError as error:
        return described | {"notes": [f"The kernels that run in it are not known: {error}"]}
    notes = [
        'XNNPACK runs 1x1 convolutions as "Fully Connected"; times are whole microseconds, rounded down, and leave out '
        "what the runtime spends between kernels."
    ]
    if answer["runtime_version"] != table.identity.runtime_version:
        notes.append(
            f"The device has {table.identity.runtime} {answer['runtime_version']} now; the table was measured with "
            f"{table.identity.runtime_version or 'an unknown version'}."
        )
    return described | {
        "kernels": answer["kernels"],
        "total_us": answer["total_us"],
        "runtime_version": answer["runtime_version"],
        "notes": notes,
    }


def _kernels(device: Device, table: LatencyTable, layer: Layer) -> dict[str, Any]:
    identity = table.identity
    if identity.runtime != PROFILED:
        raise DeviceError(
            f"only {PROFILED} and {PHONE} can be asked, and this table is of {identity.runtime or 'no named runtime'}."
        )
    with ConversionPool(MODELS, table.precision) as pool:
        model = pool.path(layer)
    with connect(device) as connection, connection.open_agent() as agent:
        agent.runtime_version(PROFILED)
        agent.lock()
        folder = f"{connection.folder}/explain"
        remote = f"{folder}/{model.name}"
        try:
            connection.put(model, remote)
            answer = agent.call(
                "kernels",
                timeout_s=SILENCE_S,
                model=remote,
                runs=RUNS,
                threads=identity.threads,
                runtime=identity.runtime,
                cores=list(identity.cores) if identity.cores is not None else None,
            )
        finally:
            with contextlib.suppress(DeviceError):  # a link that broke has said so already
                connection.run(["rm", "-rf", folder])
    try:
        return files.as_mapping(files.from_mapping(_Answer, answer, f"{device.name} says"))
    except InputError as error:
        raise DeviceError(f"The agent's answer to kernels makes no sense. {error}") from None


def _phone_kernels(device: Device, table: LatencyTable, layer: Layer) -> dict[str, Any]:
    """The same from benchmark_model's own profile of operators."""
    if device.address.kind != "adb":
        raise DeviceError(f"the table is of a phone, and {device.name} ({device.url}) is none.")
    with ConversionPool(MODELS, table.precision) as pool:
        model = pool.path(layer)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as local:
        phone = open_phone(device, stack)
        phone.lock()
        folder = f"{phone.connection.folder}/explain"
        remote, csv = f"{folder}/{model.name}", f"{folder}/operators.csv"
        try:
            phone.connection.put(model, remote)
            flags = [f"--num_threads={table.identity.threads}", f"--num_runs={RUNS}", "--enable_op_profiling=true"]
            done = phone.benchmark(remote, [*flags, f"--profiling_output_csv_file={csv}"], SILENCE_S)
            if done.returncode != 0:
                raise DeviceError(why_it_failed(done.returncode, f"{done.stdout}\n{done.stderr}"))
            phone.connection.get(csv, Path(local) / "operators.csv")
        finally:
            with contextlib.suppress(DeviceError):  # a link that broke has said so already
                phone.connection.run(["rm", "-rf", "--", folder])
        operators = read_operators((Path(local) / "operators.csv").read_text(encoding="utf-8", errors="replace"))
        found = [
            Kernel(op.kind, "delegate kernel" if op.inside else "operator", round(op.us, 3), op.count)
            for op in operators
        ]
        return {
            "kernels": [files.as_mapping(kernel) for kernel in found],
            "total_us": round(sum(kernel.us for kernel in found), 3),
            "runtime_version": phone.runtime_version(),
        }
