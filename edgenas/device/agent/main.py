"""The agent's conversation: one JSON object a line on stdin and stdout.

Asked `{"id": 1, "op": "hello", "params": {}}` it answers any number of `{"id": 1, "event": "progress", ...}` and then
`{"id": 1, "ok": true, "result": ...}` or `{"id": 1, "ok": false, "error": {"kind": "...", "message": "..."}}`.
Empty lines say that the host is there. When stdin ends, the agent ends, in the middle of an operation too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from . import inspection, kernels, locking, pausing, releases, rounds, running, signatures, unpacking
from .children import Hangup, Stdin
from .context import Context, OperationError


class Output:
    """The protocol's own stdout; what libraries print to file descriptor 1 goes to stderr."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def write(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]


def operations(folder: str, stdin: Stdin) -> dict[str, Callable[..., Any]]:
    """Every operation by name; each takes `progress` and its parameters."""
    table: dict[str, Callable[..., Any]] = {}
    for module in (inspection, locking, pausing, unpacking, rounds, running, kernels, signatures, releases):
        for name, operation in module.OPERATIONS.items():

            def bound(progress: Any, _operation: Any = operation, **params: Any) -> Any:
                return _operation(Context(folder, stdin, progress), **params)

            table[name] = bound
    return table


def serve(folder: str) -> None:
    """Answer requests until stdin ends."""
    output, stdin = Output(), Stdin(0)
    table = operations(folder, stdin)
    while True:
        line = stdin.line()
        if line is None:
            return
        output.write(answer(table, line, output.write))


def answer(
    table: dict[str, Callable[..., Any]], line: str, write: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """The answer to a request; what it tells on the way is written."""
    number = None
    try:
        request = json.loads(line)
        number, op = request["id"], request["op"]

        def progress(**values: Any) -> None:
            write({"id": number, "event": "progress", **values})

        if op not in table:
            raise OperationError("unknown_operation", f"the agent has no operation {op!r}")
        return {"id": number, "ok": True, "result": table[op](progress, **request.get("params", {}))}
    except OperationError as error:
        return _failure(number, error.kind, error.message)
    except OSError as error:
        return _failure(number, "os_error", f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except Exception as error:  # noqa: BLE001 - whatever happened, the host is told
        traceback.print_exc()
        return _failure(number, "failed", f"{type(error).__name__}: {error}")


def _failure(number: Any, kind: str, message: str) -> dict[str, Any]:
    return {"id": number, "ok": False, "error": {"kind": kind, "message": message}}


def main() -> None:
    """Run as `python agent.pyz FOLDER`."""
    folder = os.path.abspath(sys.argv[1])  # noqa: PTH100
    with contextlib.suppress(Hangup, BrokenPipeError, KeyboardInterrupt):
        serve(folder)
    # Not through the interpreter's own end: a runtime's threads have no say in it.
    os._exit(0)
