"""Whether a device computes what the host computes: a bundle's samples, run there."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.deploy.samples import Samples
from edgenas.device import Agent, Connection, Device
from edgenas.errors import CheckFailedError, DeviceError, reading
from edgenas.latency.profiling.bench import Progress

_HEADER_BYTES = 4096  # of a NumPy file with outputs, and more
LEAST = 0.98  # share of the samples on which the device must name the class that the host names


@dataclass(frozen=True)
class Agreement:
    """How the outputs of device and host compare.

    Attributes:
        share: of the samples on which they name the same class.
        samples: how many there were.
        largest_difference: between their raw outputs.
    """

    share: float
    samples: int
    largest_difference: float

    @property
    def enough(self) -> bool:
        """Whether the model may go live."""
        return self.share >= LEAST

    @property
    def detail(self) -> str:
        """In words."""
        return f"the same class as on the host on {self.share:.1%} of {self.samples} samples"

    @property
    def complaint(self) -> str:
        """In words, where it is not enough."""
        return (
            f"the model names {self.detail}, expected at least {LEAST:.0%} (outputs differ by up to "
            f"{self.largest_difference:g}). Its runtime computes something else."
        )


def run_samples(
    connection: Connection,
    agent: Agent,
    model: str,
    samples: Samples,
    scratch: str,
    threads: int,
    progress: Progress,
) -> Agreement:
    """Run samples on a device, and compare with what the host made of them.

    Args:
        model: its path there.
        scratch: a folder there.
        threads: of one inference.

    Raises:
        CheckFailedError: the model does not run there, or gives something else than outputs.
        DeviceError: the link broke.
    """
    inputs, outputs = f"{scratch}/inputs.npy", f"{scratch}/outputs.npy"
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "samples.npy"
        np.save(local, samples.images, allow_pickle=False)
        connection.put(local, inputs)
        agent.call(
            "infer",
            timeout_s=120,
            on_progress=lambda said: progress("running the samples", _count(said, "row"), _count(said, "rows")),
            model=model,
            inputs=inputs,
            outputs=outputs,
            threads=threads,
            runtime=agent.device.runtime.package,
        )
        connection.get(outputs, local, largest_bytes=samples.outputs.nbytes + _HEADER_BYTES)
        answers = _read_outputs(local, agent.device)
    connection.run(["rm", "-f", "--", inputs, outputs])  # they may be private
    expected = samples.outputs
    if (answers.shape, answers.dtype) != (expected.shape, expected.dtype) or not np.isfinite(answers).all():
        raise CheckFailedError(
            f"{agent.device.name}: expected finite outputs {expected.dtype} {list(expected.shape)} of the samples, "
            f"received {answers.dtype} {list(answers.shape)}."
        )
    same = answers.argmax(axis=1) == expected.argmax(axis=1)
    difference = np.abs(answers.astype(float) - expected.astype(float)).max()
    return Agreement(float(same.mean()), len(same), float(difference))


def _count(said: dict[str, Any], key: str) -> int:
    """A number of a line of progress; 0 where the device says something else."""
    value = said.get(key)
    return value if type(value) is int else 0


def _read_outputs(path: Path, device: Device) -> npt.NDArray[Any]:
    with reading(f"{device.name}: its outputs of the samples", error=DeviceError), path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
