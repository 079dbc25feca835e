"""A machine whose times follow a formula, in the place of `edgenas.device.agent.machine`.

Its clock moves by inferences and by sleep alone. An inference takes what its operators ask for (`cost_us`), whoever
else is at work on the machine that runs the tests. Only a model's first inference, and those on inputs that were set
anew, are computed.

EDGENAS_TESTS_WEATHER names a JSON file (where there is one) with what befalls this machine; see `Weather`.
Python 3.8, for agents of every age; nothing is imported before it is needed.
"""

from __future__ import annotations

import importlib
import json
import os
import time


class Weather:
    """What befalls a machine; times are in microseconds of its own clock.

    speed: everything takes so many times as long.
    kinds: so do operators of a kind, "CONV_2D" -> factor.
    sizes: so do models of a size, bytes -> factor.
    networks: so do models of more operators than a layer has.
    wander, period_us: the speed goes up by this share and back, over and over.
    lost_every: every so many inferences the process loses its core ...
    lost_us: ... for so long.
    kills: a model of a size, bytes -> signal that it ends its process with.
    memory_kb: what MemAvailable says; None: what it is.
    """

    def __init__(self) -> None:
        path = os.environ.get("EDGENAS_TESTS_WEATHER", "")
        said = json.load(open(path)) if path and os.path.exists(path) else {}  # noqa: PTH110, PTH123, SIM115
        self.speed = said.get("speed", 1.0)
        self.kinds = said.get("kinds", {})
        self.sizes = said.get("sizes", {})
        self.networks = said.get("networks", 1.0)
        self.wander = said.get("wander", 0.0)
        self.period_us = said.get("period_us", 1e6)
        self.lost_every = said.get("lost_every", 0)
        self.lost_us = said.get("lost_us", 0.0)
        self.kills = said.get("kills", {})

    def now(self, at_us: float) -> float:
        """How many times as long everything takes at a time."""
        phase = at_us / self.period_us % 1.0
        return self.speed * (1 + self.wander * (1 - abs(2 * phase - 1)))


_weather = Weather()
_us = 1e9  # this machine's clock
_away_us = 0.0  # of it, without a core
_lost = 0
_inferences = 0
_cold = False
_kept_kb = 50_000.0
LAYER_OPERATORS = 12  # no single layer has more of them
LOAD_US, CALL_US, COLD = 5000.0, 2.0, 1.5


def now_us() -> float:
    return _us


def on_core_us() -> float:
    return _us - _away_us


def lost_core() -> int:
    return _lost


def sleep(seconds: float) -> None:
    """Its clock moves on, and nobody waits: only who polls lets the others work."""
    global _us
    _us += seconds * 1e6
    time.sleep(min(seconds, 0.005))


def monotonic_s() -> float:
    """Between processes there is one time alone."""
    return time.monotonic()


def fill_caches() -> None:
    global _cold
    _cold = True


def anonymous_kb() -> int:
    return int(_kept_kb)


def rss_kb(key: str) -> int:
    return int(_kept_kb) + (20_000 if key == "VmHWM" else 19_000)


def shared_folder() -> str:
    """The tests' own: other tests of this machine, and other work, do not lock theirs."""
    import tempfile

    return tempfile.gettempdir()


def cost_us(operators, tensors) -> float:  # type: ignore[no-untyped-def]
    """What the operators of a model take: as long as their kind, what they write, and what they multiply, ask for."""
    shapes = {tensor["index"]: [int(size) for size in tensor["shape"]] for tensor in tensors}

    def elements(index: int) -> int:
        count = 1
        for size in shapes.get(index, []):
            count *= size
        return count

    total = 0.0
    for operator in operators:
        kind, inputs, outputs = operator["op_name"], list(operator["inputs"]), list(operator["outputs"])
        if kind == "DELEGATE":
            continue
        us = CALL_US + sum(elements(index) for index in outputs) / 2000
        weights = shapes.get(inputs[1], []) if len(inputs) > 1 else []
        if kind in ("CONV_2D", "FULLY_CONNECTED") and weights:
            us += sum(elements(index) for index in outputs) * elements(inputs[1]) / weights[0] / 20_000
        elif kind == "DEPTHWISE_CONV_2D" and len(weights) == 4:
            side = weights[1]
            us += elements(outputs[0]) * side * weights[2] / (5_000 if side < 7 else 500)
        total += us * _weather.kinds.get(kind, 1.0)
    return total


def _elements(inputs) -> int:  # type: ignore[no-untyped-def]
    """How many numbers go in."""
    count = 0
    for each in inputs:
        product = 1
        for size in each["shape"]:
            product *= int(size)
        count += product
    return count


def spend(us: float) -> float:
    """The clock moves on by an inference; what it took."""
    global _us, _away_us, _lost, _inferences
    _inferences += 1
    jitter = (_inferences * 2654435761 % 1000) / 1000 - 0.5  # of half a percent in all: the same in every run
    took = us * _weather.now(_us) * (1 + 0.005 * jitter)
    if _weather.lost_every and _inferences % _weather.lost_every == 0:
        _lost += 1
        _away_us += _weather.lost_us
        took += _weather.lost_us
    _us += took
    return took


def _wrap(module) -> None:  # type: ignore[no-untyped-def]
    """Have the interpreters of a runtime take this machine's time."""
    real = module.Interpreter
    if getattr(real, "edgenas_virtual", False):
        return

    class Interpreter(real):  # type: ignore[misc,valid-type]
        edgenas_virtual = True

        def __init__(self, model_path=None, *arguments, **options):  # type: ignore[no-untyped-def]
            global _us, _kept_kb
            super().__init__(model_path, *arguments, **options)
            content = options.get("model_content")
            size = len(content) if content is not None else os.path.getsize(model_path)  # noqa: PTH202
            operators, tensors = self._get_ops_details(), self.get_tensor_details()
            factor = _weather.networks if len(operators) > LAYER_OPERATORS else 1.0
            self.virtual_us = cost_us(operators, tensors) * factor * _weather.sizes.get(str(size), 1.0)
            self.virtual_elements = _elements(self.get_input_details())
            self.virtual_end = _weather.kills.get(str(size))
            self.virtual_stale = True  # the outputs are not those of the inputs
            _us += LOAD_US
            _kept_kb += size / 1024

        def allocate_tensors(self):  # type: ignore[no-untyped-def]
            """Inputs of other sizes than the file's take so many times as long as they are larger."""
            super().allocate_tensors()
            before, self.virtual_elements = self.virtual_elements, _elements(self.get_input_details())
            self.virtual_us *= self.virtual_elements / before

        def set_tensor(self, index, value):  # type: ignore[no-untyped-def]
            super().set_tensor(index, value)
            self.virtual_stale = True

        def invoke(self):  # type: ignore[no-untyped-def]
            global _cold
            if self.virtual_end is not None:
                os.kill(os.getpid(), self.virtual_end)
            if self.virtual_stale:
                super().invoke()
                self.virtual_stale = False
            spend(self.virtual_us * (COLD if _cold else 1.0))
            _cold = False

    module.Interpreter = Interpreter


_import_module = importlib.import_module


def _imported(name, package=None):  # type: ignore[no-untyped-def]
    module = _import_module(name, package)
    if name.endswith(".interpreter") and hasattr(module, "Interpreter"):
        _wrap(module)
    return module


importlib.import_module = _imported
