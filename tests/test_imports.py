"""`import edgenas` stays light."""

import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "keras", "optuna", "paramiko", "ai_edge_litert", "sklearn", "matplotlib")


@pytest.mark.parametrize(
    "module", ["edgenas", "edgenas.cli", "edgenas.device", "edgenas.latency.table", "edgenas.model", "edgenas.space"]
)
def test_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_public_names_are_few_sorted_and_there() -> None:
    import edgenas

    assert list(edgenas.__all__) == sorted(edgenas.__all__)
    assert len(edgenas.__all__) <= 25
    for name in edgenas.__all__:
        assert getattr(edgenas, name) is not None
