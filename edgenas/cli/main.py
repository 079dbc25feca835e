"""The command `edgenas`, and how errors become one line and an exit code."""

import contextlib
import io
import os
import sys
import traceback

import click

from edgenas.cli.data import data
from edgenas.cli.devices import device, doctor
from edgenas.cli.endings import DONE, FAULT, INTERRUPTED, Commands, ending
from edgenas.cli.exporting import export
from edgenas.cli.keys import key
from edgenas.cli.measuring import measure
from edgenas.cli.models import predict, sign, train
from edgenas.cli.printing import stderr
from edgenas.cli.profiling import profile, table
from edgenas.cli.searching import pareto, report, search
from edgenas.cli.shipping import deployed, rollback, ship, verify
from edgenas.cli.starting import quickstart
from edgenas.cli.studies import study
from edgenas.errors import EdgeNASError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="edgenas", message="%(package)s %(version)s")
def cli() -> None:
    """Finds the most accurate network on your data within what your device can run, proves it there, ships it.

    \b
    Exit codes: 0 done; 1 a fault of EdgeNAS itself; 2 bad input; 3 device unreachable or refused;
                4 a check failed; 130 interrupted.
    """


for command in (
    doctor, device, data, profile, table, measure, search, study, pareto, train, predict, sign, export, ship, rollback,
    deployed, verify, key, report, quickstart,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Run the command line; whatever ends it is one line on stderr and an exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _ready_streams()
    try:
        code = cli.main(standalone_mode=False)
    except BaseException as error:
        text, code = ending(error)
        if os.environ.get("EDGENAS_DEBUG"):
            if code == FAULT:
                raise
            if isinstance(error, EdgeNASError) and error.__cause__ is not None:
                traceback.print_exception(error)  # what a parser said of a foreign file
        if text:
            with contextlib.suppress(OSError):  # nobody can be told
                stderr.print(text, style="red" if code != INTERRUPTED else None, markup=False, highlight=False)
    sys.exit(code if isinstance(code, int) else DONE)


def _ready_streams() -> None:
    """Have streams that take whatever is said."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a stream that is closed: the next file would take its number, and what is printed
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every locale has a "±"
