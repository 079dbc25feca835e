"""Work in forked children, in a process of its own: pytest's has threads, and is not forked."""

import json
import select
import subprocess
import sys

import pytest

from tests.waiting import until

_SCRIPT = """
import json, os, signal, sys
from edgenas.device.agent.children import Died, Hangup, Stdin, in_child

def busy(report):
    for number in range(3):
        report(number=number)
    return {"pid": os.getpid() != parent, "stdin": os.readlink("/proc/self/fd/0")}

def fails(report):
    try:
        raise OSError("the cause")
    except OSError as error:
        raise ValueError("what came of it") from error

works = {
    "busy": busy, "fails": fails, "exits": lambda report: os._exit(7),
    "SIGKILL": lambda report: os.kill(os.getpid(), signal.SIGKILL),
    "SIGILL": lambda report: os.kill(os.getpid(), signal.SIGILL),
    "waits": lambda report: signal.pause(),
}
parent, told = os.getpid(), []
stdin = Stdin(0)
try:
    print(json.dumps(["result", in_child(stdin, works[sys.argv[1]], progress=lambda **line: told.append(line)), told]))
except Died as death:
    print(json.dumps(["died", death.reason, death.out_of_memory]))
except RuntimeError as error:
    print(json.dumps(["raised", str(error)]))
except Hangup:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        print(json.dumps(["hangup", "no child is left"]))
"""


@pytest.mark.parametrize(
    ("work", "came"),
    [
        ("busy", ["result", {"pid": True, "stdin": "/dev/null"}, [{"number": number} for number in range(3)]]),
        ("fails", ["raised", "OSError: the cause"]),
        ("exits", ["died", "ended with exit code 7", False]),
        ("SIGKILL", ["died", "killed by SIGKILL", True]),
        ("SIGILL", ["died", "killed by SIGILL", False]),
        ("waits", ["hangup", "no child is left"]),
    ],
)
def test_what_comes_of_a_child(work: str, came: list[object]):
    argv = [sys.executable, "-c", _SCRIPT, work]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        try:
            if work == "waits":
                stdin.close()  # the host has gone
            until(lambda: select.select([stdout], [], [], 0)[0])
            assert json.loads(stdout.readline()) == came
        finally:
            process.kill()
