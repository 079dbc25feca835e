"""The kind of bench that a device needs."""

from edgenas.device import Device
from edgenas.latency.profiling.bench import Bench, Progress, no_progress
from edgenas.latency.profiling.phone import PhoneBench

AnyBench = Bench | PhoneBench


def open_bench(device: Device, threads: int, progress: Progress = no_progress) -> AnyBench:
    """A device to be measured, by its transport; nothing is opened before it is entered."""
    if device.address.kind == "adb":
        return PhoneBench(device, threads, progress)
    return Bench(device, threads, progress)
