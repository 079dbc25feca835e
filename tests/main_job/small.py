"""A space and a profile that are small: the main job is the same with them, and takes seconds.

Also a program: `python small.py BATCHES WORD...` runs a command in this world, and is killed (by itself, so that it is
nobody's clock that says when) after so many batches of a profile are in the journal.
"""

import os
import signal
import sys
from typing import Any

import pytest

from edgenas.latency.profiling import journal, planning, profiler
from edgenas.space import mobile


def shrink(patch: pytest.MonkeyPatch) -> None:
    """The space `tiny` with 64 networks made of 19 layers, and a quick profile of 32 networks in batches of 16."""
    for name, options in (
        ("KERNELS", (3, 7)), ("EXPANSIONS", (1, 3)), ("SE_RATIOS", (0.0,)), ("DEPTHS", (1,)), ("WIDTHS", (0.5,)),
    ):  # fmt: skip
        patch.setattr(mobile, name, options)
    plan = mobile._Plan((8, 64), (2,), 16, ((16, 1), (32, 2), (64, 2)), 128)
    patch.setitem(mobile._PLANS, "tiny", plan)
    patch.setattr(planning, "FEWER_NETWORKS", NETWORKS)
    patch.setattr(profiler, "BATCH", BATCH)


NETWORKS = (12, 10, 10)
BATCH = 16

if __name__ == "__main__":
    from edgenas.cli import main

    left, add = int(sys.argv.pop(1)), journal.Journal.add

    def adds(*arguments: Any) -> None:
        global left
        add(*arguments)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    journal.Journal.add = adds  # type: ignore[method-assign]
    shrink(pytest.MonkeyPatch())
    main()
