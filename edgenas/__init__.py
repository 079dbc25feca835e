"""EdgeNAS: the most accurate network within what your device can run, proved on the device, and shipped there.

The public names are below. Each is imported when it is first used: `import edgenas` loads neither TensorFlow nor
Optuna nor an SSH library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgenas.architecture import Architecture
    from edgenas.deploy import Bundle, deployed, rollback, ship, verify
    from edgenas.device import Device
    from edgenas.errors import EdgeNASError
    from edgenas.evaluation.recipe import Fidelity, Recipe
    from edgenas.latency.profiling.measuring import measure_file
    from edgenas.latency.profiling.profiler import profile
    from edgenas.latency.table import LatencyTable
    from edgenas.space import MobileSpace
    from edgenas.strategy import Final, Front, Limits, Point, Settings, search
    from edgenas.workflow import train

_HOMES = {
    "Architecture": "edgenas.architecture",
    "Bundle": "edgenas.deploy",
    "Device": "edgenas.device",
    "EdgeNASError": "edgenas.errors",
    "Fidelity": "edgenas.evaluation.recipe",
    "Final": "edgenas.strategy",
    "Front": "edgenas.strategy",
    "LatencyTable": "edgenas.latency.table",
    "Limits": "edgenas.strategy",
    "MobileSpace": "edgenas.space",
    "Point": "edgenas.strategy",
    "Recipe": "edgenas.evaluation.recipe",
    "Settings": "edgenas.strategy",
    "deployed": "edgenas.deploy",
    "measure_file": "edgenas.latency.profiling.measuring",
    "profile": "edgenas.latency.profiling.profiler",
    "rollback": "edgenas.deploy",
    "search": "edgenas.strategy",
    "ship": "edgenas.deploy",
    "train": "edgenas.workflow",
    "verify": "edgenas.deploy",
}

__all__ = [
    "Architecture",
    "Bundle",
    "Device",
    "EdgeNASError",
    "Fidelity",
    "Final",
    "Front",
    "LatencyTable",
    "Limits",
    "MobileSpace",
    "Point",
    "Recipe",
    "Settings",
    "deployed",
    "measure_file",
    "profile",
    "rollback",
    "search",
    "ship",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgenas' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
