"""Conversion in worker processes: files cached by what they hold, ready while other work goes on."""

import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import edgenas.files as files
from edgenas.architecture import Architecture, Layer
from edgenas.model.convert import Precision, convert_layer, convert_network, converter_version
from edgenas.model.quiet import keras_on_tensorflow


def end_with_parent() -> None:
    """Make this worker process end when the process that started it is gone: nothing else tells it of a `kill -9`."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_worker() -> None:
    end_with_parent()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # conversion needs no GPU, and each worker would take its memory
    keras_on_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _convert_to(path: Path, subject: Architecture | Layer, precision: Precision) -> None:
    content = convert_layer(subject, precision) if isinstance(subject, Layer) else convert_network(subject, precision)
    files.write_atomically(path, content)


# Converted layers and networks, by what they hold: another profile of the same space converts nothing.
MODELS = Path(".edgenas/models")


@functools.cache
def _code() -> str:
    """A hash of the code that converts: what another version of it made is made again."""
    folder = Path(__file__).parent
    return files.sha256(
        b"".join((folder / name).read_bytes() for name in ("batch_norm.py", "builder.py", "convert.py"))
    )[:12]


Jobs = list[tuple[Path, "Future[None] | None"]]  # each subject's path; the future that says it is there (None: it is)


def wait_for(jobs: Jobs, converted: Callable[[int, int], None] = lambda done, total: None) -> list[Path]:
    """The files of all jobs, once they are there; `converted` is told (done, of) after each that was not."""
    for done, (_, future) in enumerate(jobs, start=1):
        if future is not None:
            future.result()
            converted(done, len(jobs))
    return [path for path, _ in jobs]


class ConversionPool:
    """Converts layers and networks with random weights, for measuring; a file that is there is not made again.

    Args:
        folder: where the files go.
        precision: of all of them.
        workers: processes; each takes about 1 GB.

    Use it as a context manager: leaving it ends the processes.
    """

    def __init__(self, folder: Path, precision: Precision, workers: int | None = None) -> None:
        self._folder = folder
        self._precision = precision
        self._version = converter_version()
        self._lock = threading.Lock()
        self._outstanding = 0
        self._busy_s = self._since_s = 0.0
        # Spawned, not forked: TensorFlow does not survive a fork.
        self._pool = ProcessPoolExecutor(
            max_workers=workers or min(os.cpu_count() or 1, 8),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
        )

    def __enter__(self) -> "ConversionPool":
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def path(self, subject: Architecture | Layer) -> Path:
        """The file of one subject, converted now where it is not there."""
        return wait_for(self.submit([subject]))[0]

    def submit(self, subjects: Sequence[Architecture | Layer]) -> Jobs:
        """Begin converting."""
        jobs: Jobs = []
        for subject in subjects:
            name = files.sha256(f"{subject} {self._precision} {self._version} {_code()}".encode())[:20]
            path = self._folder / f"{name}.tflite"
            if path.exists():
                jobs.append((path, None))
            else:
                jobs.append((path, self._count(self._pool.submit(_convert_to, path, subject, self._precision))))
        return jobs

    @property
    def busy_s(self) -> float:
        """Wall time during which something was being converted."""
        with self._lock:
            return self._busy_s + (time.monotonic() - self._since_s if self._outstanding else 0.0)

    def _count(self, future: "Future[None]") -> "Future[None]":
        with self._lock:
            if self._outstanding == 0:
                self._since_s = time.monotonic()
            self._outstanding += 1
        future.add_done_callback(self._finished)
        return future

    def _finished(self, future: "Future[None]") -> None:
        with self._lock:
            self._outstanding -= 1
            if self._outstanding == 0:
                self._busy_s += time.monotonic() - self._since_s
