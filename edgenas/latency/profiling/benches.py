"""The kind of bench that a device needs, and which device it is."""

from collections.abc import Sequence
from contextlib import ExitStack

from edgenas.device import Device
from edgenas.errors import DeviceError
from edgenas.latency.profiling.bench import Bench, Progress, no_progress
from edgenas.latency.profiling.phone import PhoneBench
from edgenas.latency.table import Identity
from edgenas.model import converter_version

AnyBench = Bench | PhoneBench


def open_bench(device: Device, threads: int, progress: Progress = no_progress) -> AnyBench:
    """A device to be measured, by its transport; nothing is opened before it is entered."""
    if device.address.kind == "adb":
        return PhoneBench(device, threads, progress)
    return Bench(device, threads, progress)


def open_benches(
    devices: Sequence[Device], threads: int, progress: Progress, stack: ExitStack
) -> tuple[list[AnyBench], dict[str, str]]:
    """The devices that can be measured, and why the others cannot; one alone has to be there."""
    benches: list[AnyBench] = []
    left_out: dict[str, str] = {}
    for device in devices:
        try:
            bench: AnyBench = open_bench(device, threads, progress)
            stack.enter_context(bench)
            benches.append(bench)
        except DeviceError as error:
            if len(devices) == 1:
                raise
            left_out[device.name] = str(error)
            progress(f"going on without {device.name}: {error}", 0, 1)
    if not benches:
        raise DeviceError(" ".join(left_out.values()))
    return benches, left_out


def identify(bench: AnyBench, precision: str, threads: int) -> Identity:
    """Everything of a device that changes a table's numbers."""
    info, device = bench.info, bench.device
    return Identity(
        device=device.name,
        fingerprint=info.fingerprint,
        cpu=info.cpu,
        cpu_cores=info.cores,
        memory_mb=round(info.memory_total_kb / 1024),
        os=info.os,
        kernel=info.kernel,
        firmware=info.firmware or "",
        governor=info.governor or "",
        runtime=device.runtime.package,
        runtime_version=bench.runtime_version,
        delegate=bench.delegate(precision),
        threads=threads,
        cores=device.runtime.cores,
        precision=precision,
        converter=converter_version(),
    )
