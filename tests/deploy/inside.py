"""A device whose agent answers in this process: its files are real, what its models take is what a test says.

For what shipping decides, and for what the agent does with files. How the two talk over pipes and links, and what
becomes of real processes, is tested with real agents: test_end_to_end.py, test_killed.py.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgenas.device import Agent, Connection, open_agent
from edgenas.device.agent.context import OperationError
from edgenas.device.agent.main import operations
from edgenas.device.connection import Process
from edgenas.model import run_tflite

Outputs = npt.NDArray[Any]
FINGERPRINTED = {
    "agent": 1, "pid": 1, "python": "3.11.7", "machine": "x86_64", "system": "Linux", "libc": "glibc 2.36", "bits": 64,
    "cpu": "made up", "cores": 4, "memory_total_kb": 1 << 20, "memory_available_kb": 1 << 19, "disk_free_kb": 1 << 20,
    "boot_id": None, "kernel": "6", "os": "none", "firmware": None, "governor": None, "hostname": "inside",
    "numpy": "2.0", "accelerators": [], "cryptography": "45",
    "runtimes": [{"package": "ai-edge-litert", "version": "2.3.0", "error": None}],
}  # fmt: skip


class Ended(BaseException):
    """Raised in the middle of an operation: the agent's process has been killed there."""


def end() -> None:
    """What befalls an agent that is killed."""
    raise Ended


@dataclasses.dataclass
class Inside:
    """What the agents of this process do; a test changes it.

    Attributes:
        model_us: microseconds that an inference of the model takes, in the middle of its runs.
        spread: the fastest and the slowest run are so far from that, as a share.
        beside_us: what those beside it take: the reference first; the last one stands for all that follow.
        lost: share of the visits, the first ones, that lose their core; then only passes of a busy device count.
        moved: by which share the reference moves meanwhile.
        answers: what the device makes of the outputs that it computes.
        asked: (operation, its parameters) in order.
        before: operation -> called before it.
        info: what `hello` says besides.
        working: whether an agent is at work now.
        real: whether agents are processes after all, from now on.
    """

    model_us: float = 40.0
    spread: float = 0.1
    beside_us: list[float] = dataclasses.field(default_factory=lambda: [10.0])
    lost: float = 0.0
    moved: float = 0.0
    answers: Callable[[Outputs], Outputs] = lambda outputs: outputs
    asked: list[tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=list)
    before: dict[str, Callable[[], object]] = dataclasses.field(default_factory=dict)
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    working: bool = False
    real: bool = False

    def open(self, connection: Connection) -> Agent:
        """In the place of `open_agent`."""
        return open_agent(connection) if self.real else _Agent(connection, self)

    def params_of(self, op: str) -> list[dict[str, Any]]:
        """Those of each call of an operation."""
        return [params for asked, params in self.asked if asked == op]

    def runs_us(self, count: int) -> list[float]:
        """What the model's runs take: evenly spread, the fastest first."""
        return [self.model_us * (1 + self.spread * share) for share in np.linspace(-1, 1, count)]

    def _us(self, path: str) -> float:
        number = Path(path).stem.removeprefix("beside_")
        if number == "model":
            return self.model_us
        return self.beside_us[min(int(number), len(self.beside_us) - 1)]

    def single(self, progress: Any, model: str, runs: int, reference: str, **_: Any) -> dict[str, Any]:
        assert Path(model).is_file() and Path(reference).is_file()
        lost, reference_us = round(self.lost * runs), self._us(reference)
        return {
            "first_us": self.model_us, "load_us": 1.0, "times_us": self.runs_us(runs),
            "lost": [1] * lost + [0] * (runs - lost), "away": self.lost, "late": 0.0,
            "reference_us": [reference_us] * 6 + [reference_us * (1 + self.moved)] * 3, "peak_rss_growth_kb": 1,
        }  # fmt: skip

    def measure(
        self, progress: Any, models: list[str], reference: str, visits: int, busy: bool, **_: Any
    ) -> dict[str, Any]:
        assert all(Path(path).is_file() for path in (*models, reference))
        reference_us = self._us(reference)
        found = []
        for path in models:
            kept = visits if busy or not self.lost else 0
            times = [self._us(path)] * kept
            found.append({"visits_us": times, "cold_us": times, "around_us": [reference_us] * kept,
                          "resident_kb": 10})  # fmt: skip
        tried = visits * len(models)
        return {"models": found, "failed": {}, "reference_us": [reference_us], "visits": tried,
                "interrupted": round(self.lost * tried), "drifted": round(self.moved * tried)}  # fmt: skip

    def infer(self, progress: Any, model: str, inputs: str, outputs: str, **_: Any) -> dict[str, Any]:
        np.save(Path(outputs), self.answers(run_tflite(Path(model).read_bytes(), np.load(inputs))))
        return {}

    def hello(self, progress: Any) -> dict[str, Any]:
        return FINGERPRINTED | self.info


class _Agent(Agent):
    """Does what it is asked at once, until it is killed."""

    def __init__(self, connection: Connection, inside: Inside) -> None:
        silent = SimpleNamespace(errors=lambda: "", close=lambda: None)
        super().__init__(connection, cast(Process, silent))
        self._inside, self._killed = inside, False
        stand_ins = {name: getattr(inside, name) for name in ("single", "measure", "infer", "hello")}
        stand_ins |= {"lock": lambda progress: {}, "status": lambda progress: {}}
        self._operations = operations(connection.folder, cast(Any, None)) | stand_ins

    def lock(self) -> None:
        self.call("lock")

    def call(
        self,
        op: str,
        timeout_s: float = 60,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        **params: Any,
    ) -> Any:
        if self._killed:
            raise self._died(op)
        params = json.loads(json.dumps(params))
        self._inside.asked.append((op, params))
        self._inside.before.get(op, lambda: None)()
        self._inside.working = True
        try:
            return json.loads(json.dumps(self._operations[op](lambda **_: None, **params)))
        except OperationError as error:
            raise self._refusal(op, {"kind": error.kind, "message": error.message}) from None
        except OSError as error:
            raise self._refusal(op, {"kind": "os_error", "message": f"{error.strerror}: {error.filename}"}) from None
        except Ended:
            self._killed = True
            raise self._died(op) from None
        finally:
            self._inside.working = False
