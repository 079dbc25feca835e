"""edgenas table diff, and the parts of `edgenas table show` that it shares its file with."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import edgenas.latency.profiling.explaining as explaining
from edgenas.architecture import Layer
from edgenas.cli.comparing import character_rows, diff, show_character, show_layer
from edgenas.device import Device
from edgenas.errors import DeviceError, InputError
from edgenas.latency.profiling.kernels import Kernel, Kernels
from edgenas.latency.table import Entry, Identity, LatencyTable
from edgenas.latency.table.calibration import Calibration
from edgenas.model import MODELS
from edgenas.space import MobileSpace

FAST = Identity(
    device="board", fingerprint="f" * 12, cpu="made up", cpu_cores=4, memory_mb=2048, os="none", kernel="0",
    firmware="", governor="", runtime="ai-edge-litert", runtime_version="2.3.0", delegate="XNNPACK", threads=1,
    cores=None, precision="int8", converter="none",
)  # fmt: skip
OLD = dataclasses.replace(FAST, runtime="tflite-runtime", runtime_version="2.14.0", delegate="none")
LAYERS = MobileSpace("tiny", (28, 28, 1), 10).layers()
K7 = next(layer for layer in LAYERS if str(layer).startswith("mbconv_k7"))


def table(identity: Identity, factor: float, factor_k7: float) -> LatencyTable:
    def us(layer: Layer) -> float:
        return (2 + layer.macs / 1000) * (factor_k7 if "_k7_" in str(layer) else factor)

    entries = {layer: Entry(us(layer), 0.01, 100.0) for layer in LAYERS}
    return LatencyTable(identity, "simulated", ("", 0.0), 1.0, entries, Calibration({"sum": 1.5}))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two tables: of a runtime that is slow with 7x7 kernels, and of one that is slow with all."""
    table(FAST, 1, 20).save(tmp_path / "latency_tables" / "fast.json")
    table(OLD, 10, 22).save(tmp_path / "latency_tables" / "old.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    result = CliRunner().invoke(diff, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_what_stands_out_comes_first_and_is_drawn(project: Path) -> None:
    said = run("fast", "old").stdout
    lines = said.splitlines()
    first = next(line for line in lines if line.startswith(" 1."))
    assert (
        "tflite-runtime 2.14.0 is slower than ai-edge-litert 2.3.0 (board, int8, 1 thread, relu6, simulated)" in first
    )
    assert any("Kernel: k7 costs " in line and "on tflite-runtime 2.14.0" in line for line in lines)
    assert "runtime: ai-edge-litert | tflite-runtime" in said
    assert "The picture: fast-against-old.png" in said
    with Image.open(project / "fast-against-old.png") as image:
        assert image.width > 1000


def test_paths_are_taken_too_and_the_picture_goes_where_it_is_wanted(project: Path) -> None:
    assert run("latency_tables/fast.json", "old", "--picture", "pictures/both.svg").exit_code == 0
    assert (project / "pictures" / "both.svg").read_text().startswith("<?xml")
    with pytest.raises(InputError, match=r"No picture can be written as 'both.svgg'. Did you mean 'svg'"):
        run("fast", "old", "--picture", "both.svgg")
    assert not (project / "both.svgg").exists()
    assert run("latency_tables/fast.json", "old").exit_code == 0
    assert (project / "fast-against-old.png").exists()


def test_json_is_one_object(project: Path) -> None:
    found = json.loads(run("fast", "old", "--json", "--no-picture").stdout)
    assert not list(project.glob("*.png"))
    assert (found["first"], found["second"], found["picture"]) == ("fast", "old", None)
    assert found["names"] == ["ai-edge-litert 2.3.0", "tflite-runtime 2.14.0"]
    assert {"field": "delegate", "first": "XNNPACK", "second": "none"} in found["differs"]
    assert found["layers"]["common"] == len(LAYERS)
    assert found["shift"]["slower"] == 1
    flips = {(row["first"]["first"], row["first"]["second"]) for row in found["choices"] if row["flip"]}
    assert flips == {("k3", "k7"), ("k5", "k7")}
    assert found["moved"][0]["layer"].startswith("mbconv_")
    assert found["findings"][0].startswith("tflite-runtime 2.14.0 is slower")
    assert {"kind", "kernel"} <= {row["of"] for row in found["groups"]}


def test_a_table_beside_itself(project: Path) -> None:
    said = run("fast", "fast", "--no-picture").stdout
    assert "Nothing stands out." in said
    assert "nothing in what the tables say of themselves" in said


def test_a_table_that_is_not_there(project: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'fast'"):
        run("fats", "old")


def test_the_character_of_a_device(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = LatencyTable.load("fast")
    show_character(shown, project / "character.png")
    said = capsys.readouterr().out
    row = next(line.split() for line in said.splitlines() if "k5 to k7" in line)
    assert row[:5] == ["kernel", "k5", "to", "k7", f"{dict_of(shown)['k5', 'k7']:.1f}x"]
    assert "c to 2c: twice the channels" in said
    assert (project / "character.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(character_rows(shown)))[0]["choice"] == "kernel"


def dict_of(shown: LatencyTable) -> dict[tuple[str, str], float]:
    return {(row["first"], row["second"]): row["cost"]["median"] for row in character_rows(shown)}


def test_no_character_without_blocks(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {layer: entry for layer, entry in LatencyTable.load("fast").entries.items() if layer is not K7}
    few = dict(list(few.items())[:2])
    show_character(dataclasses.replace(LatencyTable.load("fast"), entries=few), project / "character.png")
    assert "no two differ in one alone" in capsys.readouterr().out
    assert not (project / "character.png").exists()


# One layer


def test_a_layer_of_a_device_that_is_not_known_here(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_layer(LatencyTable.load("fast"), str(K7))
    said = capsys.readouterr().out
    us = 20 * (2 + K7.macs / 1000)
    assert f"{us:g} us, known to 1.0%" in said
    assert f"{1.5 * us:g} us, after calibration" in said
    assert "There is no device 'board'" in said
    show_layer(LatencyTable.load("fast"), str(K7), as_json=True)
    assert json.loads(capsys.readouterr().out)["macs"] == K7.macs


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str, Layer]]:
    """What was to be converted: where, to which precision, which layer. Nothing is."""
    asked = []

    class Pool:
        def __init__(self, folder: Path, precision: str) -> None:
            self._where = folder, precision

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def path(self, layer: Layer) -> Path:
            asked.append((*self._where, layer))
            return Path("converted.tflite")

    monkeypatch.setattr(explaining, "ConversionPool", Pool)
    return asked


def test_a_layer_with_its_kernels(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pool: list[tuple[Path, str, Layer]],
) -> None:
    kernel = Kernel("Convolution (NHWC, QS8, QC8W) DWConv", "delegate kernel", 41.5, 1)

    def kernels(model: Path, device: Device, *rest: object) -> Kernels:
        assert (model.name, device.name) == ("converted.tflite", "board")
        assert pool == [(MODELS, "int8", K7)]
        return Kernels("2.3.0", 100, (kernel,), 41.5)

    Device("board", "ssh://nobody@127.0.0.1:1").save()
    monkeypatch.setattr(explaining, "kernels_in", kernels)
    show_layer(LatencyTable.load("fast"), str(K7))
    said = capsys.readouterr().out
    assert "DWConv" in said
    assert "41.5" in said
    assert 'Note: XNNPACK runs 1x1 convolutions as "Fully Connected"' in said


@pytest.mark.usefixtures("pool")
def test_a_device_that_is_gone_is_a_note(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise DeviceError("board cannot be reached.")

    Device("board", "ssh://nobody@127.0.0.1:1").save()
    monkeypatch.setattr(explaining, "kernels_in", gone)
    show_layer(LatencyTable.load("fast"), str(K7))
    assert "Note: The kernels that run in it are not known: board cannot be reached." in capsys.readouterr().out


def test_a_layer_that_is_none(project: Path) -> None:
    with pytest.raises(InputError, match="The nearest that it holds: mbconv"):
        show_layer(LatencyTable.load("fast"), "mbconv_k9_e3_s1_c16_relu6@28x28x16")
