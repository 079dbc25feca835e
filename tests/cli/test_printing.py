"""What devices and files of others say is printed as it is, but for what a terminal would obey."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from edgenas.cli import printing
from edgenas.cli.main import cli
from edgenas.deploy.fleet import Outcome

HOSTILE = "[/home/x] [bold]b[/bold] :smile: \x1b[2J\x1b]0;t\x07 \x9b31m \u202e \ud800 é漢"
SHOWN = "[/home/x] [bold]b[/bold] :smile: ?[2J?]0;t? ?31m ? ? é漢"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What was printed, to a terminal."""
    out = io.StringIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(printing, name, printing.PlainConsole(file=out, highlight=False, width=200))
    return out.getvalue


def test_a_hostile_text_is_shown_everywhere(written: Callable[[], str]) -> None:
    printing.print_table((HOSTILE, "number"), [(HOSTILE, 1)], title=HOSTILE)
    printing.print_pairs({"name": HOSTILE})
    printing.stderr.print(HOSTILE, style="red")
    with printing.progress_bars() as show:
        show(HOSTILE, 0, 1)
    lines = written().splitlines()
    assert len([line for line in lines if SHOWN in line]) >= 6
    assert not set(written()) & set("\x1b\x07\x9b\u202e\ud800")


def test_new_lines_and_tabs_stay() -> None:
    assert printing.printable("a\nb\tc") == "a\nb\tc"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (300, "5 min"), (5399, "90 min"), (5400, "1.5 h"), (11_500, "3.2 h")],
)
def test_a_duration_is_rounded_to_what_one_wants_to_know(seconds: float, said: str) -> None:
    assert printing.duration(seconds) == said


def test_a_fleets_table_and_exit_code_survive_what_a_device_says(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [Outcome("pi-1", "failed", HOSTILE), Outcome("pi-2", "ok")]
    monkeypatch.setattr("edgenas.workflow.ship_to_fleet", lambda *_: outcomes)
    done: Any = CliRunner().invoke(cli, ["ship", "b", "--to", "pi-*", "--as", "net"])
    assert getattr(done.exception, "exit_code", 1) == 4
    assert "[/home/x]" in done.stdout and "1 ok, 1 failed" in done.stdout
