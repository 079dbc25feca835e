"""A device that is ours for measuring: locked, with files on it, measured beside a reference model."""

import contextlib
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from edgenas.device import Agent, Connection, Device, DeviceInfo, connect, open_agent, shares_host
from edgenas.errors import DeviceError, InputError, counted
from edgenas.latency.profiling.rounds import TRIES, Rounds, measure_rounds

# With less space than this on the device, models do not stay there after they were measured.
ROOMY_KB = 2 << 20

Progress = Callable[[str, int, int], None]  # (what is being done, done, of)


def no_progress(what: str, done: int, total: int) -> None:
    """Says nothing."""


def refuse_threads(device: Device, threads: int, cores: int | None = None) -> None:
    """Raise `InputError` for more threads than cores: they only disturb each other, and each takes memory.

    Args:
        device: its file may keep models on some of its cores.
        threads: of one inference.
        cores: that the device has; None: not known yet, the device itself refuses.
    """
    kept = device.runtime.cores
    if kept is not None and threads > len(kept):
        raise InputError(f"{device.name} is kept on {counted(len(kept), 'core')}: no room for {threads} threads.")
    if cores is not None and not 1 <= threads <= cores:
        raise InputError(
            f"{device.name}: expected 1 to {cores} threads an inference, as many as it has cores, received {threads}."
        )


class Bench:
    """Use it as a context manager.

    Args:
        device: whose runtime and cores are used.
        threads: of one inference.
        progress: told when the device is disturbed.

    Raises:
        DeviceError: on entering: unreachable, without the runtime, or somebody else is measuring there.
        InputError: on entering: more threads than cores.
    """

    def __init__(self, device: Device, threads: int, progress: Progress = no_progress) -> None:
        self.device = device
        self._threads = threads
        self._progress = progress
        self._sent: set[str] = set()
        self._expected_us: float | None = None
        self._tries = TRIES
        self._stack = contextlib.ExitStack()
        self.start_s = self.sending_s = 0.0  # what reaching it and sending to it took

    def __enter__(self) -> Self:
        start = time.monotonic()
        try:
            self._connection: Connection = self._stack.enter_context(connect(self.device))
            self.agent: Agent = self._stack.enter_context(open_agent(self._connection))
            self.runtime_version = self.agent.runtime_version(self.device.runtime.package)
            refuse_threads(self.device, self._threads, self.info.cores)
            self.agent.lock()
        except BaseException:
            self._stack.close()
            raise
        self._folder = f"{self._connection.folder}/bench"
        self.start_s = time.monotonic() - start
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(DeviceError):  # a link that broke has said so already
            self._connection.run(["rm", "-rf", self._folder])
        self._stack.close()

    @property
    def reference_us(self) -> float:
        """What the reference model took here."""
        if self._expected_us is None:
            raise DeviceError(f"{self.device.name}: nothing was measured yet.")
        return self._expected_us

    @property
    def info(self) -> DeviceInfo:
        """What the device says of itself."""
        return self.agent.info

    @property
    def shares_host(self) -> bool:
        """Whether the host's own work disturbs it."""
        return shares_host(self.info)

    def delegate(self, precision: str) -> str:
        """What the runtime hands operators to, as a table's identity names it."""
        return "XNNPACK" if self.device.runtime.package == "ai-edge-litert" or precision == "float32" else "none"

    def measure(self, models: Sequence[Path], reference: Path) -> Rounds:
        """Send what is not there yet, and measure.

        Raises:
            DeviceError: the link broke, no room, or the device stays disturbed.
        """
        self._send([*models, reference])
        rounds = measure_rounds(
            self.agent,
            [f"{self._folder}/{path.name}" for path in models],
            f"{self._folder}/{reference.name}",
            runtime=self.device.runtime.package,
            threads=self._threads,
            cores=self.device.runtime.cores,
            expected_us=self._expected_us,
            tries=self._tries,
            waiting=lambda attempt, tries: self._progress(f"waiting: {self.device.name} is disturbed", attempt, tries),
        )
        self._expected_us = self._expected_us or rounds.reference_us
        # A device that was busy is asked once whether it is at rest by now, and not waited for again.
        self._tries = 1 if rounds.steadiness.disturbed else TRIES
        if self.info.disk_free_kb < ROOMY_KB:
            self._forget([path for path in models if path != reference])
        return rounds

    def _forget(self, paths: Sequence[Path]) -> None:
        """Make room again; what is measured once more is sent once more."""
        self._connection.run(["rm", "-f", *(f"{self._folder}/{path.name}" for path in paths)])
        self._sent -= {path.name for path in paths}

    def _send(self, paths: Sequence[Path]) -> None:
        new = {path.name: path for path in paths if path.name not in self._sent}
        if not new:
            return
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "models.zip"
            with zipfile.ZipFile(archive, "w") as content:
                for name, path in new.items():
                    content.write(path, name)
            self._connection.put(archive, f"{self._folder}.zip")
        self.agent.call("unpack", archive=f"{self._folder}.zip", folder=self._folder)
        self._sent |= set(new)
        self.sending_s += time.monotonic() - start
