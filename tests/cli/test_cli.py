"""Every command as a user types it: its exit code, its streams."""

import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from edgenas.cli.main import cli
from edgenas.errors import CheckFailedError, DeviceError, InputError
from tests.terminal import Done, Terminal

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


@pytest.fixture
def user(tmp_path: Path) -> Terminal:
    """In a folder of its own."""
    return Terminal(tmp_path)


def commands(group: click.Group = cli, above: str = "edgenas") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        words = f"{above} {name}"
        found += commands(command, words) if isinstance(command, click.Group) else [(words, command)]
    return found


@pytest.mark.parametrize(("words", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_has_json_an_example_and_an_entry_in_the_docs(words: str, command: click.Command) -> None:
    assert "Example: edgenas" in (command.help or "")
    assert any(parameter.name == "as_json" for parameter in command.params)
    assert f"`{words}" in DOCS


@pytest.mark.parametrize("name", ["search", "train"])
def test_every_option_of_what_trains_has_an_entry_in_the_docs(name: str) -> None:
    above, _, section = DOCS.partition(f"## Options of {name}\n")
    said = section.split("\n## ")[0] + next(
        line for line in above.splitlines() if line.startswith(f"| `edgenas {name} ")
    )
    options = {word for parameter in cli.commands[name].params for word in parameter.opts if word.startswith("--")}
    assert [word for word in options - {"--json"} if not re.search(f"`{word}[` ]|[ `]{word} ", said)] == []


def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    """What `edgenas` on PATH does: streams, exit codes, and no traceback."""
    argv = [sys.executable, "-c", "from edgenas.cli import main; main()"]

    def edgenas(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*argv, *words], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    helps = edgenas("search", "--help")
    assert (helps.returncode, helps.stderr) == (0, "")
    assert "--max-latency-ms" in helps.stdout
    refused = edgenas("device", "show", "nope")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("edgenas: There is no device 'nope'") and refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (InputError("Bad."), 2, "edgenas: Bad."),
        (DeviceError("pi: it said\n  two lines"), 3, "edgenas: pi: it said two lines"),
        (CheckFailedError("No."), 4, "edgenas: No."),
        (click.Abort(), 130, "edgenas: Interrupted. The same command goes on where it was."),
        (KeyboardInterrupt(), 130, "edgenas: Interrupted. The same command goes on where it was."),
        (KeyError("x"), 1, "edgenas: A fault of EdgeNAS itself: KeyError: 'x'. EDGENAS_DEBUG=1 shows where."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_ends_a_command_is_one_line_and_an_exit_code(
    raised: BaseException, code: int, said: str, user: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "main", ends)
    assert user.types() == Done(code, "", f"{said}\n")


def test_a_fault_shows_where_it_is_for_who_asks(user: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(cli, "main", ends)
    monkeypatch.setenv("EDGENAS_DEBUG", "1")
    with pytest.raises(KeyError):
        user.types()


def test_unknown_device_offers_the_near_one(user: Terminal) -> None:
    user.is_refused(2, "Did you mean 'local'?", "profile", "locla", "--input", "28x28x1")


def test_unknown_option_and_bad_shape(user: Terminal) -> None:
    user.is_refused(2, "No such option", "profile", "local", "--inptu", "28x28x1")
    user.is_refused(2, "expected HEIGHTxWIDTHxCHANNELS", "profile", "local", "--input", "28")


def test_a_space_that_does_not_suit_the_input(user: Terminal) -> None:
    said = "use --space standard or another --input"
    user.is_refused(2, said, "profile", "local", "--input", "160x160x3")


def test_unreachable_host(user: Terminal) -> None:
    assert user.types("device", "add", "gone", "ssh://nobody@127.0.0.1:1").returncode == 0
    user.is_refused(3, "gone", "device", "trust", "gone")
    user.is_refused(3, "cannot be reached", "profile", "gone", "--input", "28x28x1")


def test_unknown_key_in_a_device_file(user: Terminal, tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "pi.toml").write_text('url = "local:"\nfoldr = "x"\n')
    user.is_refused(2, "Did you mean 'folder'?", "device", "show", "pi")


def test_no_table_says_which_command_makes_one(user: Terminal) -> None:
    said = "Make one: edgenas profile local --space tiny --input 8x8x1"
    words = ("search", "--study", "s", "--data", "digits", "--device", "local", "--input", "8x8x1")
    user.is_refused(2, said, *words)
    user.is_refused(2, f"{said} --precision int8 --threads 1 --activation relu", *words, "--activation", "relu")


def _images(folder: Path, counts: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (9, 9), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def _search(user: Terminal, data: str, code: int, said: str) -> None:
    words = ("search", "--study", "s", "--data", data, "--device", "local", "--input", "8x8x1")
    user.is_refused(code, said, *words)


def test_a_class_folder_with_one_image(user: Terminal, tmp_path: Path) -> None:
    _images(tmp_path / "data", {"a": 20, "b": 1})
    _search(user, "data", 2, "'b' has 1 image")


def test_a_file_that_is_no_image(user: Terminal, tmp_path: Path) -> None:
    _images(tmp_path / "data", {"a": 20, "b": 20})
    (tmp_path / "data" / "a" / "words.jpg").write_text("no image")
    _search(user, "data", 2, "words.jpg")


def test_data_that_is_not_there(user: Terminal) -> None:
    _search(user, "fashion-mnits", 2, "Did you mean 'fashion-mnist'?")


def test_a_damaged_table_is_named(user: Terminal, tmp_path: Path) -> None:
    (tmp_path / "latency_tables").mkdir()
    (tmp_path / "latency_tables" / "bad.json").write_text('{"schema": 1}')
    user.is_refused(2, "cannot be read", "table", "show", "bad")
    words = ("search", "--study", "s", "--data", "digits", "--device", "local", "--input", "8x8x1")
    user.is_refused(2, "cannot be read", *words, "--table", "bad")


def test_unknown_study_bundle_and_model(user: Terminal) -> None:
    user.is_refused(2, "There is no study 'nope'", "pareto", "nope")
    user.is_refused(2, "There is no study 'nope'", "train", "nope")
    user.is_refused(2, "nope", "ship", "nope", "local", "--as", "m")
    user.is_refused(2, "There is no model nope.tflite", "measure", "nope.tflite", "local")


def test_dry_run_of_a_profile_measures_nothing(user: Terminal, tmp_path: Path) -> None:
    assert user.gets("profile", "local", "--input", "28x28x1", "--dry-run")["layers"] > 557
    assert not (tmp_path / "latency_tables").exists()


def test_devices_come_and_go(user: Terminal) -> None:
    assert user.types("device", "add", "pi", "ssh://pi@10.0.0.2:2222", "--json").returncode == 0
    user.is_refused(2, "pi", "device", "add", "pi", "ssh://pi@10.0.0.3")
    listed = user.gets("device", "list")["devices"]
    assert {row["name"] for row in listed} == {"local", "pi"}
    assert user.types("device", "remove", "pi").returncode == 0
    user.is_refused(2, "There is no device 'pi'", "device", "show", "pi")


def test_a_password_never_gets_into_a_file(user: Terminal, tmp_path: Path) -> None:
    user.is_refused(2, "password", "device", "add", "pi", "ssh://pi:hunter2@10.0.0.2")
    assert not (tmp_path / "devices").exists()


def test_a_phone_needs_its_benchmark_model(user: Terminal, tmp_path: Path) -> None:
    user.is_refused(2, "--benchmark-model PATH", "device", "add", "phone", "adb:39111F")
    user.is_refused(2, "for phones", "device", "add", "pi", "ssh://pi", "--delegate", "gpu")
    words = ("--runtime", "tflite-runtime", "--benchmark-model", "x")
    user.is_refused(2, "expected benchmark-model", "device", "add", "phone", "adb:39111F", *words)
    added = user.types("device", "add", "phone", "adb:39111F", "--benchmark-model", "x", "--json")
    assert added.returncode == 0, added.stderr
    text = (tmp_path / "devices" / "phone.toml").read_text()
    assert all(line in text for line in ('folder = "edgenas"', 'benchmark_model = "x"', 'delegate = "xnnpack"'))
