"""The command line: arguments, printing, exit codes; no logic."""

from edgenas.cli.main import main

__all__ = ["main"]
