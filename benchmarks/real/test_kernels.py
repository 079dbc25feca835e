"""The kernels inside a model, timed by LiteRT's profiler on this machine."""

import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.device import Agent, Device, connect, open_agent
from edgenas.device.agent.kernels import _CHECKED
from edgenas.model import Precision
from tests.device import made

Figures = Callable[[str, object], None]
pytestmark = pytest.mark.skipif(
    importlib.metadata.version("ai-edge-litert") not in _CHECKED, reason="the installed ai-edge-litert was not checked"
)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with (
        connect(Device("here", "local:", folder=str(tmp_path / "work"))) as connection,
        open_agent(connection) as agent,
    ):
        yield agent


def fastest(agent: Agent, name: str, precision: Precision) -> dict[str, Any]:
    """Of three answers that are means: one interruption spoils one of them."""
    path = str(made.path_of(name, precision))
    answers = [agent.call("kernels", model=path, runs=100) for _ in range(3)]
    return min(answers, key=lambda answer: float(answer["total_us"]))


@pytest.mark.parametrize("precision", made.PRECISIONS)
@pytest.mark.parametrize("name", ["k3_relu6", "k7_relu6"])
def test_the_kernels_of_a_layer_add_up_to_its_latency(
    agent: Agent, figures: Figures, name: str, precision: Precision
) -> None:
    single = agent.call("single", model=str(made.path_of(name, precision)), runs=100)
    latency_us, answer = float(np.median(single["times_us"])), fastest(agent, name, precision)
    figures("latency_us", round(latency_us, 1))
    figures("kernels_us", round(answer["total_us"], 1))
    assert all(kernel["us"] > 0 for kernel in answer["kernels"] if kernel["name"] != "Add (ND)")
    assert latency_us / 3 < answer["total_us"] < latency_us * 3


def test_a_depthwise_7x7_that_left_the_fast_kernels_takes_far_longer(agent: Agent, figures: Figures) -> None:
    small, large = (
        {kernel["name"]: kernel["us"] for kernel in fastest(agent, name, "int8")["kernels"]}
        for name in ("k3_relu6", "k7_relu6")
    )
    fast_us, slow_us = small["Convolution (NHWC, QC8) DWConv"], large["Convolution (NHWC, QC8) IGEMM"]
    figures("3x3 with DWConv, 7x7 with IGEMM, us", (round(fast_us, 1), round(slow_us, 1)))
    assert slow_us > 5 * fast_us
    swish = {kernel["name"]: kernel["us"] for kernel in fastest(agent, "k3_hardswish", "int8")["kernels"]}
    figures("int8 hard-swish outside XNNPACK, us", round(swish["HARD_SWISH"], 1))
    assert swish["HARD_SWISH"] > 0
