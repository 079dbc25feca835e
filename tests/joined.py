"""A kind of block that EdgeNAS does not have, made as CONTRIBUTING.md says: it joins branches in tests of graphs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgenas.architecture import Block, Operator, Shape
from edgenas.architecture.blocks import _part
from edgenas.model.builder import _build
from edgenas.model.quiet import keras_on_tensorflow


@dataclass(frozen=True)
class Joined(Block):
    """The sum of two inputs of one shape, `times` over."""

    times: int = _part("t", default=1)

    def operators(self, inputs: tuple[Shape, ...]) -> tuple[Operator, ...]:
        return (Operator("add", (0, 1), inputs[0]),)


@_build.register
def _(block: Joined, inputs: Sequence[Any]) -> Any:
    return keras_on_tensorflow().layers.Add()(inputs)
