"""What a worker process does in tests in the place of a training: what the call or the candidate's batch size says."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

from edgenas.evaluation import workers
from edgenas.evaluation.data import Dataset
from edgenas.evaluation.evaluator import Rounds
from edgenas.evaluation.recipe import Candidate
from edgenas.evaluation.training import TrainingError
from edgenas.evaluation.workers import Told
from edgenas.model import end_with_parent
from tests.waiting import until

DIES, RAISES, DIVERGES = 2, 3, 4
threads_here = 0


def start(said: Any, threads: int) -> None:
    """A worker without TensorFlow, which takes seconds."""
    global threads_here
    workers._said, threads_here = said, threads
    end_with_parent()


def evaluate(
    candidate: Candidate, dataset: Dataset, rounds: Rounds, steps: int, scale: float, seed: int, told: Told
) -> dict[str, Any]:
    """What it was given, and the process that it runs in."""
    size = candidate.recipe.batch_size
    if size == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    if size == RAISES:
        raise MemoryError("no room for a tensor\nof that shape")
    if size == DIVERGES:
        raise TrainingError("The training of x diverged by step 100: its loss is nan.")
    told("a candidate", 1, steps)
    return {
        "network": candidate.architecture.id,
        "data": dataset.identity,
        "rounds": [(train_on.tolist(), measure_on.tolist()) for train_on, measure_on in rounds],
        "steps": steps,
        "scale": scale,
        "seed": seed,
        "pid": os.getpid(),
    }


class OddError(Exception):
    """It cannot be read again from what it is sent as."""

    def __init__(self, word: str, other: str) -> None:
        super().__init__(word + other)


def call(what: str, file: Path, told: Told) -> tuple[str, int, int]:
    """Do what the word says; (the word, process, threads).

    Args:
        what: "waits" for the file, "opens" it, "hangs" once it is written, "tells" and then waits for it, "dies",
            "raises", "raises oddly", or anything else, which is done at once.
        file: for that.
    """
    if what == "tells":
        told("a fold", 100, 300)
        until(file.exists)
        told("a fold", 200, 300)
    elif what == "waits":
        until(file.exists)
    elif what == "opens":
        file.touch()
    elif what == "hangs":
        file.with_suffix(".part").write_text(str(os.getpid()))
        file.with_suffix(".part").rename(file)
        threading.Event().wait()
    elif what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "raises":
        raise TrainingError("its loss is nan")
    elif what == "raises oddly":
        raise OddError("odd", "ly")
    return what, os.getpid(), threads_here
