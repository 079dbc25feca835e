"""Which kernels run in a model on a device, and how long each takes."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edgenas.files as files
from edgenas.device import Device, connect, open_agent, open_phone
from edgenas.errors import DeviceError, InputError
from edgenas.latency.profiling.bench import refuse_threads
from edgenas.latency.profiling.benchmark_output import LARGEST_FILE_BYTES, read_operators
from edgenas.latency.profiling.phone import why_it_failed

# The runtimes that name their kernels: one on devices with Python, one on phones.
PROFILED, PHONE = "ai-edge-litert", "benchmark-model"
RUNS = 100
SILENCE_S = 120
READING = (
    'XNNPACK runs 1x1 convolutions as "Fully Connected"; times are whole microseconds, rounded down, and leave out '
    "what the runtime spends between kernels."
)


@dataclass(frozen=True)
class Kernel:
    """A kernel that ran in a model.

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
class Kernels:
    """The kernels that ran in a model.

    Attributes:
        runtime_version: of what ran it.
        runs: inferences.
        kernels: each of them.
        total_us: of all of them in one inference.
    """

    runtime_version: str
    runs: int
    kernels: tuple[Kernel, ...]
    total_us: float


def kernels_in(
    model: Path, device: Device, threads: int = 1, cores: Sequence[int] | None = None, runtime: str | None = None
) -> Kernels:
    """The kernels that run in a `.tflite` file on a device.

    Args:
        model: the file.
        device: where.
        threads, cores: of one inference.
        runtime: which; None: the device's.

    Raises:
        DeviceError: unreachable, its runtime does not tell, or the model does not run there.
    """
    runtime = runtime or device.runtime.package
    refuse_silent(runtime)
    if runtime == PHONE:
        return _on_phone(model, device, threads)
    with connect(device) as connection, open_agent(connection) as agent:
        agent.runtime_version(PROFILED)
        agent.lock()
        folder = f"{connection.folder}/explain"
        remote = f"{folder}/{files.sha256(model)[:16]}.tflite"
        try:
            connection.put(model, remote)
            answer = agent.call(
                "kernels",
                timeout_s=SILENCE_S,
                model=remote,
                runs=RUNS,
                threads=threads,
                runtime=runtime,
                cores=list(cores) if cores is not None else None,
            )
        finally:
            with contextlib.suppress(DeviceError):  # a link that broke has said so already
                connection.run(["rm", "-rf", folder])
    try:
        found = files.from_mapping(Kernels, answer, f"{device.name} says")
    except InputError as error:
        raise DeviceError(f"The agent's answer to kernels makes no sense. {error}") from None
    if found.total_us < 0 or any(kernel.us < 0 or kernel.count < 1 for kernel in found.kernels):
        raise DeviceError(f"{device.name}: the agent's answer to kernels has times or counts that cannot be.")
    return found


def refuse_silent(runtime: str) -> None:
    """Raise `DeviceError` for a runtime that does not tell its kernels."""
    if runtime not in (PROFILED, PHONE):
        raise DeviceError(f"only {PROFILED} and {PHONE} can be asked, and this is {runtime or 'an unnamed runtime'}.")


def _on_phone(model: Path, device: Device, threads: int) -> Kernels:
    """The same from benchmark_model's own profile of operators."""
    if device.address.kind != "adb":
        raise DeviceError(f"the table is of a phone, and {device.name} ({device.url}) is none.")
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as local:
        phone = open_phone(device, stack)
        refuse_threads(device, threads, phone.info.cores)
        phone.lock()
        folder = f"{phone.connection.folder}/explain"
        remote, csv = f"{folder}/{files.sha256(model)[:16]}.tflite", f"{folder}/operators.csv"
        try:
            phone.connection.put(model, remote)
            flags = [f"--num_threads={threads}", f"--num_runs={RUNS}", "--enable_op_profiling=true"]
            done = phone.benchmark(remote, [*flags, f"--profiling_output_csv_file={csv}"], SILENCE_S)
            if done.returncode != 0:
                raise DeviceError(why_it_failed(done.returncode, f"{done.stdout}\n{done.stderr}", phone.most_kb))
            phone.connection.get(csv, Path(local) / "operators.csv", largest_bytes=LARGEST_FILE_BYTES)
        finally:
            with contextlib.suppress(DeviceError):  # a link that broke has said so already
                phone.connection.run(["rm", "-rf", "--", folder])
        operators = read_operators((Path(local) / "operators.csv").read_text(encoding="utf-8", errors="replace"))
        found = [
            Kernel(op.kind, "delegate kernel" if op.inside else "operator", round(op.us, 3), op.count)
            for op in operators
        ]
        return Kernels(phone.runtime_version(), RUNS, tuple(found), round(sum(kernel.us for kernel in found), 3))
