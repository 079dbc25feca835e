"""edgenas table import."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgenas.cli.importing import import_
from edgenas.errors import InputError
from edgenas.latency.table import LatencyTable

BLOCK = "expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:3-stride:2-idskip:0"
STEM = "Conv-input:224x224x3-output:112x112x32"
YAML = f"{STEM}: {{mean: 4.0}}\n{BLOCK}: {{count: 100, mean: 2.0, var: 0.25}}\n"
WORDS = ("lut.yaml", "--device", "pixel", "--precision", "float32")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lut.yaml").write_text(YAML)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(import_, words)


def refused(said: str, *words: str) -> None:
    """It ends with what `main` makes one line and exit code 2 of; nothing is on stdout, nothing saved."""
    result = run(*words)
    assert isinstance(result.exception, InputError) and result.exception.exit_code == 2
    assert said in str(result.exception) and "\n" not in str(result.exception)
    assert result.stdout == ""


def test_it_saves_a_table_that_doubts_itself(folder: Path) -> None:
    result = run(*WORDS, "--threads", "4", "--runtime", "tflite-runtime", "--as", "pixel-224")
    assert result.exit_code == 0, result.output
    table = LatencyTable.load("pixel-224")
    assert [str(layer) for layer in table.entries] == ["mbconv_k3_e6_s2_c24_relu6@112x112x16"]
    assert (table.identity.threads, table.identity.runtime) == (4, "tflite-runtime")
    assert "DOUBT" in result.stdout and "the table is imported" in result.stdout
    assert "1 of 2" in result.stdout
    assert f"not imported (1): its key tells neither kernel nor activation\n  {STEM}\n" in result.stdout


def test_json_holds_the_same(folder: Path) -> None:
    found = json.loads(run(*WORDS, "--json").stdout)
    assert found["table"] == "lut" and found["saved"] == "latency_tables/lut.json" and found["entries"] == 1
    assert found["unmapped"] == [{"key": STEM, "reason": "its key tells neither kernel nor activation"}]
    assert found["certificate"] is None and found["doubt"] == "the table is imported"
    assert (folder / found["saved"]).is_file()


def test_a_dry_run_saves_nothing_and_lists_everything(folder: Path) -> None:
    (folder / "lut.yaml").write_text(f"{STEM}: {{mean: 4.0}}\n")
    found = json.loads(run(*WORDS, "--dry-run", "--json").stdout)
    assert found["saved"] is None and found["entries"] == 0 and len(found["unmapped"]) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["lut.yaml"]


def test_a_table_is_never_overwritten() -> None:
    assert run(*WORDS).exit_code == 0
    refused("There is a latency table 'lut' already: choose another name with --as", *WORDS)
    refused("There is a latency table 'lut' already", *WORDS, "--dry-run")


def test_a_file_that_is_none_or_holds_nothing_of_ours(folder: Path) -> None:
    (folder / "lut.yaml").write_text("name: x\n")
    refused("lut.yaml is no table of once-for-all or ProxylessNAS (YAML)", *WORDS)
    (folder / "lut.yaml").write_text(f"{STEM}: {{mean: 4.0}}\n")
    refused(f"Nothing of lut.yaml is a layer of EdgeNAS (the first of 1: {STEM}: its key tells", *WORDS)
    refused("cannot be read: No such file", "gone.yaml", *WORDS[1:])
    assert sorted(path.name for path in folder.iterdir()) == ["lut.yaml"]


@pytest.mark.parametrize("missing", ["--device", "--precision"])
def test_what_the_file_does_not_say_must_be_said(missing: str) -> None:
    words = list(WORDS)
    del words[words.index(missing) : words.index(missing) + 2]
    result = run(*words)
    assert result.exit_code == 2 and f"Missing option '{missing}'" in result.stderr


def test_help_has_an_example() -> None:
    assert "Example: edgenas table import" in run("--help").stdout
