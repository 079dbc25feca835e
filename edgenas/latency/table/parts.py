"""What a latency table is made of: whose it is, and what one layer costs."""

from dataclasses import dataclass

LEAST, MOST = 1e-12, 1e15  # of a table's numbers: products of what lies between are finite, and so are quotients


@dataclass(frozen=True)
class Identity:
    """Everything that changes a table's numbers; "" where a table made elsewhere does not say.

    Attributes:
        device: the device's name.
        fingerprint: of the hardware and system that was measured, which the next seven name.
        cpu, cpu_cores, memory_mb, os, kernel, firmware, governor: the processor, how many cores it has, the memory,
            the system, its kernel, the firmware and the frequency governor where they can be read.
        runtime: "ai-edge-litert" or "tflite-runtime", with `runtime_version`.
        delegate: what the runtime hands operators to.
        threads: of one inference.
        cores: the cores it was kept on, if it was.
        precision: "float32" or "int8".
        converter: what wrote the models.
    """

    device: str
    fingerprint: str
    cpu: str
    cpu_cores: int
    memory_mb: int
    os: str
    kernel: str
    firmware: str
    governor: str
    runtime: str
    runtime_version: str
    delegate: str
    threads: int
    cores: tuple[int, ...] | None
    precision: str
    converter: str


@dataclass(frozen=True)
class Entry:
    """A layer's cost.

    Attributes:
        us: microseconds of one inference, the empty model's time taken off.
        half_width: 1.96 standard errors of that, as a share of it; None where a table made elsewhere does not say.
        cold_us: what an inference takes when the caches are full of other data; None likewise.
        resident_kb: memory that it keeps: its tensors, and its weights as the runtime packs them; None likewise.
    """

    us: float
    half_width: float | None
    cold_us: float | None
    resident_kb: float | None = None
