"""Measuring some layers and networks again, in a table's own milliseconds."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgenas.architecture import Architecture, Layer
from edgenas.device import Agent, Connection, Device, connect
from edgenas.errors import CheckFailedError, DeviceError
from edgenas.latency.rounds import Ratio, measure_rounds
from edgenas.latency.table import LatencyTable
from edgenas.model import MODELS, ConversionPool, Precision

BATCH = 100
Subject = Architecture | Layer
Progress = Callable[[str, int, int], None]  # (what is being done, done, of)


class Remeasuring:
    """A session on a device that measures beside a table's reference model.

    Use it as a context manager.

    Args:
        device: where.
        table: whose reference, runtime, threads and cores are used.
        progress: told what is being done.
    """

    def __init__(self, device: Device, table: LatencyTable, progress: Progress) -> None:
        self._device = device
        self._table = table
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._sent: set[str] = set()

    def __enter__(self) -> "Remeasuring":
        self._connection: Connection = self._stack.enter_context(connect(self._device))
        self.agent: Agent = self._stack.enter_context(self._connection.open_agent())
        self.agent.lock()
        self._folder = f"{self._connection.folder}/check"
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(DeviceError):  # a link that broke has said so already
            self._connection.run(["rm", "-rf", self._folder])
        self._stack.close()

    def convert(self, subjects: Sequence[Subject]) -> list[Path]:
        """The subjects' `.tflite` files, and the reference's as the last."""
        precision: Precision = "int8" if self._table.identity.precision == "int8" else "float32"
        with ConversionPool(MODELS, precision) as pool:
            jobs = pool.submit([*subjects, Architecture.parse(self._table.reference[0])])
            for done, (_, future) in enumerate(jobs, start=1):
                if future is not None:
                    future.result()
                    self._progress("converting", done, len(jobs))
        return [path for path, _ in jobs]

    def measure(self, paths: Sequence[Path]) -> Iterator[Ratio]:
        """The ratio of each file but the last to the last.

        Raises:
            CheckFailedError: a model does not run.
            DeviceError: the link broke, or the device stays disturbed.
        """
        *models, reference = [self._send(path) for path in paths]
        identity = self._table.identity
        expected_us = None
        for start in range(0, len(models), BATCH):
            self._progress("measuring", start, len(models))
            rounds = measure_rounds(
                self.agent,
                models[start : start + BATCH],
                reference,
                runtime=identity.runtime,
                threads=identity.threads,
                cores=identity.cores,
                expected_us=expected_us,
                waiting=lambda attempt, tries: self._progress("waiting: the device is disturbed", attempt, tries),
            )
            expected_us = expected_us or rounds.reference_us
            for index, ratio in enumerate(rounds.ratios):
                if ratio is None:
                    raise CheckFailedError(f"{paths[start + index].name} does not run there: {rounds.failed[index]}.")
                yield ratio
        self._progress("measuring", len(models), len(models))

    def _send(self, path: Path) -> str:
        remote = f"{self._folder}/{path.name}"
        if path.name not in self._sent:
            self._connection.put(path, remote)
            self._sent.add(path.name)
        return remote
