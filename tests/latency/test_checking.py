"""A table that still holds, and one that does not any more."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.device import Device, Runtime
from edgenas.errors import InputError
from edgenas.latency.profiling.checking import check_table
from edgenas.latency.table import LatencyTable
from tests.latency.conftest import WITHOUT_XNNPACK

pytestmark = pytest.mark.slow


def test_a_fresh_table_is_fresh(project: Path, quiet: LatencyTable):
    found = check_table(Device("quiet", "local:", folder=str(project / "work")), quiet)
    # The whole machine may have become slower meanwhile: that alone may make it stale.
    assert found.fresh or all("the whole device takes" in reason for reason in found.reasons), found
    assert found.changes == ()
    assert abs(found.networks - 1) < 0.05
    assert found.layers < 0.2
    assert found.in_interval >= 0.5


def test_a_runtime_that_lost_its_fast_kernels_makes_it_stale(
    project: Path, quiet: LatencyTable, make_board: Callable[..., "object"], tmp_path: Path
):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "sitecustomize.py").write_text(WITHOUT_XNNPACK)
    board = make_board(environment={"PYTHONPATH": str(tmp_path / "odd")})
    device = board.device("quiet", runtime=Runtime(python=sys.executable))  # type: ignore[attr-defined]
    found = check_table(device, quiet)
    assert not found.fresh
    assert found.reasons
    assert len(found.worst) > 0


def test_what_changed_of_the_device_is_named(project: Path, quiet: LatencyTable):
    identity = dataclasses.replace(quiet.identity, kernel="5.4.0-old", runtime_version="1.0")
    device = Device("quiet", "local:", folder=str(project / "work"))
    found = check_table(device, dataclasses.replace(quiet, identity=identity))
    assert any(change.startswith("kernel: 5.4.0-old became ") for change in found.changes)
    assert any(change.startswith("runtime version: 1.0 became ") for change in found.changes)


def test_an_imported_table_cannot_be_checked(project: Path, quiet: LatencyTable):
    imported = dataclasses.replace(quiet, source="imported", certificate=None, reference=("", 0.0))
    with pytest.raises(InputError, match="is imported and has no measured networks"):
        check_table(Device("quiet", "local:"), imported)
