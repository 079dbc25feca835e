"""What a worker process does in tests in the place of a training: what the candidate's batch size says."""

import os
import signal
import threading
from typing import Any

from edgenas.evaluation.data import Dataset
from edgenas.evaluation.evaluator import Rounds
from edgenas.evaluation.recipe import Candidate
from edgenas.evaluation.training import TrainingError

DIES, RAISES, DIVERGES, HANGS = 2, 3, 4, 5


def evaluate(
    candidate: Candidate, dataset: Dataset, rounds: Rounds, steps: int, scale: float, seed: int
) -> dict[str, Any]:
    """What it was given, and the process that it runs in."""
    size = candidate.recipe.batch_size
    if size == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    if size == RAISES:
        raise MemoryError("no room for a tensor\nof that shape")
    if size == DIVERGES:
        raise TrainingError("The training of x diverged by step 100: its loss is nan.")
    if size == HANGS:
        print(os.getpid(), flush=True)
        threading.Event().wait()
    return {
        "network": candidate.architecture.id,
        "data": dataset.identity,
        "rounds": [(train_on.tolist(), measure_on.tolist()) for train_on, measure_on in rounds],
        "steps": steps,
        "scale": scale,
        "seed": seed,
        "pid": os.getpid(),
    }
