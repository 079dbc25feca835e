"""Every command as a user runs it: a process of its own, its exit code, its streams."""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from edgenas.cli.main import cli

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def edgenas(*words: str, cwd: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from edgenas.cli import main; main()", *words],
        cwd=cwd, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def refused(code: int, said: str, *words: str, cwd: Path) -> str:
    """The command ends with that code and one line on stderr that holds `said`; nothing on stdout."""
    done = edgenas(*words, cwd=cwd)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stdout == ""
    return done.stderr


def commands(group: click.Group = cli, above: str = "edgenas") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        words = f"{above} {name}"
        found += commands(command, words) if isinstance(command, click.Group) else [(words, command)]
    return found


@pytest.mark.parametrize(("words", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_has_json_an_example_and_an_entry_in_the_docs(words: str, command: click.Command):
    assert "Example: edgenas" in (command.help or "")
    assert any(parameter.name == "as_json" for parameter in command.params)
    assert f"`{words}" in DOCS


def test_help_works(tmp_path: Path):
    done = edgenas("search", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--max-latency-ms" in done.stdout


def test_unknown_device_offers_the_near_one(tmp_path: Path):
    refused(2, "Did you mean 'local'?", "profile", "locla", "--input", "28x28x1", cwd=tmp_path)


def test_unknown_option_and_bad_shape(tmp_path: Path):
    refused(2, "No such option", "profile", "local", "--inptu", "28x28x1", cwd=tmp_path)
    refused(2, "expected HEIGHTxWIDTHxCHANNELS", "profile", "local", "--input", "28", cwd=tmp_path)


def test_a_space_that_does_not_suit_the_input(tmp_path: Path):
    said = "use --space standard or another --input"
    refused(2, said, "profile", "local", "--input", "160x160x3", cwd=tmp_path)


def test_unreachable_host(tmp_path: Path):
    assert edgenas("device", "add", "gone", "ssh://nobody@127.0.0.1:1", cwd=tmp_path).returncode == 0
    refused(3, "gone", "device", "trust", "gone", cwd=tmp_path)
    refused(3, "cannot be reached", "profile", "gone", "--input", "28x28x1", cwd=tmp_path)


def test_unknown_key_in_a_device_file(tmp_path: Path):
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "pi.toml").write_text('url = "local:"\nfoldr = "x"\n')
    refused(2, "Did you mean 'folder'?", "device", "show", "pi", cwd=tmp_path)


def test_no_table_says_which_command_makes_one(tmp_path: Path):
    said = "Make one: edgenas profile local --space tiny --input 8x8x1"
    words = ("search", "--study", "s", "--data", "digits", "--device", "local", "--input", "8x8x1")
    refused(2, said, *words, cwd=tmp_path)
    refused(2, f"{said} --precision int8 --threads 1 --activation relu", *words, "--activation", "relu", cwd=tmp_path)


def _images(folder: Path, counts: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (9, 9), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def _search(data: str, cwd: Path, code: int, said: str) -> None:
    words = ("search", "--study", "s", "--data", data, "--device", "local", "--input", "8x8x1")
    refused(code, said, *words, cwd=cwd)


def test_a_class_folder_with_one_image(tmp_path: Path):
    _images(tmp_path / "data", {"a": 20, "b": 1})
    _search("data", tmp_path, 2, "'b' has 1 image")


def test_a_file_that_is_no_image(tmp_path: Path):
    _images(tmp_path / "data", {"a": 20, "b": 20})
    (tmp_path / "data" / "a" / "words.jpg").write_text("no image")
    _search("data", tmp_path, 2, "words.jpg")


def test_data_that_is_not_there(tmp_path: Path):
    _search("fashion-mnits", tmp_path, 2, "Did you mean 'fashion-mnist'?")


def test_a_damaged_table_is_named(tmp_path: Path):
    (tmp_path / "latency_tables").mkdir()
    (tmp_path / "latency_tables" / "bad.json").write_text('{"schema": 1}')
    refused(2, "cannot be read", "table", "show", "bad", cwd=tmp_path)
    words = ("search", "--study", "s", "--data", "digits", "--device", "local", "--input", "8x8x1")
    refused(2, "cannot be read", *words, "--table", "bad", cwd=tmp_path)


def test_unknown_study_bundle_and_model(tmp_path: Path):
    refused(2, "There is no study 'nope'", "pareto", "nope", cwd=tmp_path)
    refused(2, "There is no study 'nope'", "train", "nope", cwd=tmp_path)
    refused(2, "nope", "ship", "nope", "local", "--as", "m", cwd=tmp_path)
    refused(2, "There is no model nope.tflite", "measure", "nope.tflite", "local", cwd=tmp_path)


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path):
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "here.toml").write_text(f'url = "local:"\nfolder = "{tmp_path / "board"}"\n')
    (tmp_path / "bad.tflite").write_bytes(b"TFL3 but not really" * 50)
    refused(4, "not a valid", "measure", "bad.tflite", "here", cwd=tmp_path)


def test_dry_run_of_a_profile_measures_nothing(tmp_path: Path):
    done = edgenas("profile", "local", "--input", "28x28x1", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["layers"] > 557
    assert not (tmp_path / "latency_tables").exists()


def test_devices_come_and_go(tmp_path: Path):
    assert edgenas("device", "add", "pi", "ssh://pi@10.0.0.2:2222", "--json", cwd=tmp_path).returncode == 0
    refused(2, "pi", "device", "add", "pi", "ssh://pi@10.0.0.3", cwd=tmp_path)
    listed = json.loads(edgenas("device", "list", "--json", cwd=tmp_path).stdout)["devices"]
    assert {row["name"] for row in listed} == {"local", "pi"}
    assert edgenas("device", "remove", "pi", cwd=tmp_path).returncode == 0
    refused(2, "There is no device 'pi'", "device", "show", "pi", cwd=tmp_path)


def test_a_password_never_gets_into_a_file(tmp_path: Path):
    refused(2, "password", "device", "add", "pi", "ssh://pi:hunter2@10.0.0.2", cwd=tmp_path)
    assert not (tmp_path / "devices").exists()


def test_a_phone_needs_its_benchmark_model(tmp_path: Path):
    refused(2, "--benchmark-model PATH", "device", "add", "phone", "adb:39111F", cwd=tmp_path)
    refused(2, "for phones", "device", "add", "pi", "ssh://pi", "--delegate", "gpu", cwd=tmp_path)
    refused(2, "expected benchmark-model", "device", "add", "phone", "adb:39111F", "--runtime", "tflite-runtime",
            "--benchmark-model", "x", cwd=tmp_path)  # fmt: skip
    added = edgenas("device", "add", "phone", "adb:39111F", "--benchmark-model", "x", "--json", cwd=tmp_path)
    assert added.returncode == 0, added.stderr
    text = (tmp_path / "devices" / "phone.toml").read_text()
    assert all(line in text for line in ('folder = "edgenas"', 'benchmark_model = "x"', 'delegate = "xnnpack"'))
