"""The evaluator with real training, in a real process that can be lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgenas.architecture import Architecture
from edgenas.evaluation.data import load_dataset, split
from edgenas.evaluation.evaluator import TrainEvaluator
from edgenas.evaluation.recipe import Candidate, Fidelity, Recipe

SMALL = Architecture.parse("input_8x8x1 conv_k3_s1_c16_relu6 mbconv_k3_e3_s2_c16_se0.25_relu6 head_c32_relu6 dense_n10")
CANDIDATE = Candidate(SMALL, "int8", Recipe(batch_size=32))


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainEvaluator]:
    dataset = load_dataset("digits", (8, 8, 1), cache=tmp_path_factory.mktemp("cache"))
    made = TrainEvaluator(dataset, split(dataset, 0), Fidelity(epochs=4), seed=0)
    yield made
    made.close()


# Gradients of a residual's input are sums: their order must not depend on which thread is first.
RESIDUAL = Architecture.parse(
    "input_8x8x1 conv_k3_s1_c16_relu6 mbconv_k3_e3_s1_c16_relu6 mbconv_k3_e6_s1_c16_se0.25_relu6 "
    "mbconv_k5_e3_s1_c16_relu6 head_c32_relu6 dense_n10"
)


@pytest.mark.parametrize("architecture", [SMALL, RESIDUAL])
def test_the_same_candidate_gets_the_same_accuracy(evaluator: TrainEvaluator, architecture: Architecture):
    candidate = Candidate(architecture, "int8", Recipe(batch_size=32))
    first, again = evaluator.evaluate([candidate, candidate])
    assert first.error is None
    assert first.values is not None
    assert first.values["accuracy"] > 0.5
    assert first.values == again.values
    assert len(first.values["recall"]) == 10


def test_a_killed_worker_is_one_failed_candidate(evaluator: TrainEvaluator):
    evaluator.evaluate([CANDIDATE])

    def kill() -> None:
        time.sleep(1)
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()

    threading.Thread(target=kill).start()
    slow = Candidate(SMALL, "int8", Recipe(batch_size=2))
    failed = evaluator.evaluate([slow])[0]
    assert failed.values is None
    assert "process died" in (failed.error or "")
    assert evaluator.evaluate([CANDIDATE])[0].error is None


def test_a_training_that_diverges_is_a_failed_candidate(evaluator: TrainEvaluator):
    wild = Candidate(SMALL, "int8", Recipe(batch_size=32, learning_rate=1e30))
    failed = evaluator.evaluate([wild])[0]
    assert failed.values is None
    assert "diverged" in (failed.error or "")


SCRIPT = """
import sys
from pathlib import Path
from edgenas.evaluation.data import load_dataset, split
from edgenas.evaluation.evaluator import TrainEvaluator
from edgenas.evaluation.recipe import Fidelity
from tests.evaluation.test_evaluator import CANDIDATE

if __name__ == "__main__":
    dataset = load_dataset("digits", (8, 8, 1), cache=Path("cache"))
    evaluator = TrainEvaluator(dataset, split(dataset, 0), Fidelity(epochs=1), seed=0)
    evaluator.evaluate([CANDIDATE])
    print("ready", flush=True)
    evaluator.evaluate([CANDIDATE] * 1000)
"""


def test_the_worker_ends_when_its_search_is_killed(tmp_path: Path):
    (tmp_path / "search.py").write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    search = subprocess.Popen(
        [sys.executable, "search.py"], cwd=tmp_path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    )
    assert search.stdout is not None
    assert search.stdout.readline() == b"ready\n"
    workers = psutil.Process(search.pid).children(recursive=True)
    assert workers
    search.send_signal(signal.SIGKILL)
    search.wait()
    search.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
