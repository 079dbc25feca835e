"""The command `edgenas`, and how errors become one line and an exit code."""

import os
import sys

import click

from edgenas.cli.data import data
from edgenas.cli.devices import device, doctor
from edgenas.cli.exporting import export
from edgenas.cli.keys import key
from edgenas.cli.models import predict, sign, train
from edgenas.cli.printing import stderr
from edgenas.cli.profiling import measure, profile, table
from edgenas.cli.searching import pareto, report, search
from edgenas.cli.shipping import deployed, rollback, ship, verify
from edgenas.cli.starting import quickstart
from edgenas.cli.studies import study
from edgenas.errors import EdgeNASError

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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
    """Run the command line; every error on purpose is one line on stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except EdgeNASError as error:
        _end(str(error), error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        _end(error.format_message() + (f" See: {context.command_path} --help" if context else ""), 2)
    except (KeyboardInterrupt, click.Abort):
        _end("Interrupted. The same command goes on where it was.", INTERRUPTED)
    except BrokenPipeError:
        os._exit(0)  # whoever read our output has seen enough
    except Exception as error:
        if os.environ.get("EDGENAS_DEBUG"):
            raise
        _end(f"A fault of EdgeNAS itself: {type(error).__name__}: {error}. EDGENAS_DEBUG=1 shows where.", 1)


def _end(message: str, code: int) -> None:
    line = " ".join(map(str.strip, message.splitlines()))  # what a device or a library said may have several
    stderr.print(f"edgenas: {line}", style="red" if code != INTERRUPTED else None, markup=False, highlight=False)
    sys.exit(code)
