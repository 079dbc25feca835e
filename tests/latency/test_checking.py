"""A table that still holds, and one that does not any more."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgenas.cli.main import cli
from edgenas.device import Device, Runtime
from edgenas.errors import CheckFailedError, InputError
from edgenas.latency.profiling.checking import check_table
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.table import LatencyTable
from tests.latency.conftest import WITHOUT_XNNPACK, Peace

pytestmark = pytest.mark.slow


def test_a_fresh_table_is_fresh(project: Path, peace: Peace):
    device = Device("quiet", "local:", folder=str(project / "work"))
    table = peace.tables[-1]
    for _ in range(3):
        found = check_table(device, table)
        # The whole machine may have become slower meanwhile: that alone may make it stale.
        well = all("the whole device takes" in reason for reason in found.reasons)
        if well:
            break
        table = peace.measure()  # the machine itself has changed since
    assert well, found
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


def _in_project(project: Path, table: LatencyTable) -> None:
    """The table and its device, as a user has them."""
    Device("quiet", "local:", folder=str(project / "work")).save()
    table.save(project / "latency_tables" / "mine.json")


def test_the_command_says_stale_and_ends_with_code_4(project: Path, quiet: LatencyTable):
    """A table of a device that was a third as fast: nothing else of it has changed."""
    slower = {layer: dataclasses.replace(entry, us=entry.us * 3) for layer, entry in quiet.entries.items()}
    slow = dataclasses.replace(quiet, entries=slower, reference=(quiet.reference[0], quiet.reference[1] * 3))
    _in_project(project, slow)
    result = CliRunner().invoke(cli, ["table", "check", "mine", "--json"])
    assert isinstance(result.exception, CheckFailedError)
    assert result.exception.exit_code == 4
    found = json.loads(result.stdout)
    assert found["fresh"] is False
    assert found["speed"] < 0.8
    assert "the whole device takes" in found["reasons"][0]
    assert {"networks", "in_interval", "layers", "worst", "changes"} <= set(found)


def test_the_kernels_of_a_layer_on_the_device_itself(project: Path, quiet: LatencyTable, small_plan: Plan):
    _in_project(project, quiet)
    layer = next(layer for layer in small_plan.layers if str(layer).startswith("mbconv_k3_e3"))
    result = CliRunner().invoke(cli, ["table", "show", "mine", "--layer", str(layer), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["us"] == quiet.entries[layer].us
    assert any("DWConv" in kernel["name"] for kernel in found["kernels"])
    assert sum(kernel["us"] for kernel in found["kernels"]) == pytest.approx(found["total_us"])
