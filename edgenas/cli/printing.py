"""What all commands share: JSON on stdout, everything else on stderr, progress."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from edgenas.errors import EdgeNASError, InputError

T = TypeVar("T")
# What a terminal obeys, or what turns the order of a line around; and halves of characters, which cannot be written.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class PlainConsole(Console):
    """Prints any text as it is, but for what a terminal would obey: devices and files of others have a say in it.

    Nothing is markup: `[/x]` in a device's words would be a mistake in it.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, soft_wrap=True, **settings)

    def on_broken_pipe(self) -> None:
        """Let the caller say how it ends, which here is an exit by rich."""
        raise

    def render_str(self, text: str, **how: Any) -> Text:
        """Every text comes by here, those in cells of tables among them."""
        return super().render_str(printable(text), **how)


def printable(text: str) -> str:
    """A text with "?" for all that a terminal would obey."""
    return _UNPRINTABLE.sub("?", text)


stderr = PlainConsole(stderr=True)
stdout = PlainConsole(highlight=False)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")


class Shape(click.ParamType[tuple[int, int, int]]):
    """HEIGHTxWIDTHxCHANNELS, such as 28x28x1."""

    name = "HxWxC"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """The three sizes."""
        if isinstance(value, tuple):
            return value
        sizes = str(value).lower().split("x")
        if len(sizes) != 3 or not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
            self.fail(f"expected HEIGHTxWIDTHxCHANNELS such as 28x28x1, received {value!r}.", param, ctx)
        return int(sizes[0]), int(sizes[1]), int(sizes[2])


def each(names: Iterable[str], load: Callable[[str], T]) -> tuple[list[T], dict[str, str]]:
    """What there is by name, and why the others cannot be read: one bad file hides none of the good ones."""
    found: list[T] = []
    bad: dict[str, str] = {}
    for name in names:
        try:
            found.append(load(name))
        except EdgeNASError as error:
            bad[name] = str(error)
    return found, bad


def refuse_unreadable(bad: Mapping[str, str]) -> None:
    """Raise `InputError` where there are any, after the good ones have been shown."""
    if bad:
        raise InputError(" ".join(bad.values()))


def print_json(value: Any) -> None:
    """The command's result, the only thing on stdout under --json."""
    click.echo(json.dumps(value, allow_nan=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Rows for people; numbers to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    stdout.print(table)


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        stdout.print(f"{name.ljust(width)}  {value}", markup=False)


def duration(seconds: float) -> str:
    """ "40 s", "5 min", "3.2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _TimeLeft(ProgressColumn):
    """By all that was done of a task so far: a profile converts and measures in turn, so its speed is never steady."""

    def render(self, task: Task) -> Text:
        """ "about 5 min left"; nothing before there is anything to tell by."""
        done = task.completed - task.fields["first"]
        if done <= 0 or task.total is None or not task.elapsed or task.finished:
            return Text()
        return Text(f"about {duration(task.elapsed * (task.total - task.completed) / done)} left")


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (what is being done, done, of how much) that draws a bar for each thing that is done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _TimeLeft())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=stderr, transient=True) as bars:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(printable(what), total=total, first=done)
                if not stderr.is_terminal:
                    stderr.print(f"{what} ...", markup=False)
            bars.update(tasks[what], completed=done, total=total)

        yield show
