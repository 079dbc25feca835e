"""What of a `.tflite` file is measured, and at which sizes: a number holds for nothing else.

Read from the file itself: no runtime is asked, and none is trusted.
"""

import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, cast

from edgenas.errors import DeviceError, InputError, counted, cut, near, reading
from edgenas.model.flatbuffer import Table

Sizes = tuple[int, ...]
_OPEN, _LARGEST = -1, (1 << 31) - 1
# Fields by number, as schema.fbs lists them.
_Model = IntEnum("_Model", "VERSION OPERATOR_CODES SUBGRAPHS DESCRIPTION BUFFERS METADATA_BUFFER METADATA SIGNATURES",
                 start=0)  # fmt: skip
_Subgraph = IntEnum("_Subgraph", "TENSORS INPUTS", start=0)
_Tensor = IntEnum("_Tensor", "SHAPE TYPE BUFFER NAME QUANTIZATION IS_VARIABLE SPARSITY SHAPE_SIGNATURE", start=0)
_Signature = IntEnum("_Signature", "INPUTS OUTPUTS KEY DEPRECATED SUBGRAPH", start=0)
_Mapped = IntEnum("_Mapped", "NAME TENSOR", start=0)


@dataclass(frozen=True)
class Input:
    """An input of a graph.

    Attributes:
        tensor: its number there.
        name: as the signature calls it, or else as the tensor is called.
        sizes: of the file; -1: open.
        made: the sizes that a runtime takes where nobody says any.
    """

    tensor: int
    name: str
    sizes: Sizes
    made: Sizes


@dataclass(frozen=True)
class Condition:
    """What a measurement holds for.

    Attributes:
        signature: which is measured; None: the model has none.
        of_many: whether it has others, which are other graphs.
        inputs: in the graph's order.
        sizes: of each of them; none is open.
    """

    signature: str | None
    of_many: bool
    inputs: tuple[Input, ...]
    sizes: tuple[Sizes, ...]

    @property
    def changed(self) -> bool:
        """Whether a runtime has to be told the sizes."""
        return any(each.made != sizes for each, sizes in zip(self.inputs, self.sizes, strict=True))

    def for_agent(self) -> dict[str, Any]:
        """What the agent's `single` has to be told besides."""
        told: dict[str, Any] = {"signature": self.signature} if self.of_many else {}
        if self.changed:
            pairs = zip(self.inputs, self.sizes, strict=True)
            told["sizes"] = [[each.tensor, list(sizes)] for each, sizes in pairs if each.made != sizes]
        return told

    def flags(self) -> list[str]:
        """What benchmark_model has to be told besides. It takes the names for words in a warning."""
        told = [f"--signature_to_run_for={self.signature}"] if self.of_many else []
        if self.changed:
            told.append("--input_layer=" + ",".join(re.sub(r"[^\w./-]", "_", each.name) for each in self.inputs))
            told.append("--input_layer_shape=" + ":".join(",".join(map(str, sizes)) for sizes in self.sizes))
        return told

    def told(self) -> dict[str, Any]:
        """The same, for people and programs."""
        pairs = zip(self.inputs, self.sizes, strict=True)
        return {"signature": self.signature, "inputs": {each.name: list(sizes) for each, sizes in pairs}}

    def check(self, name: str, answer: Mapping[str, Any]) -> None:
        """Raise `DeviceError` where a device measured at other sizes than it was asked for."""
        try:
            shapes = sorted(tuple(int(size) for size in each["shape"]) for each in answer["inputs"])
        except (KeyError, TypeError, ValueError):
            shapes = None
        if shapes != sorted(self.sizes):
            asked, said = (cut(" ".join(map(by, each))) for each in (self.sizes, shapes or []))
            raise DeviceError(f"{name}: asked to measure at {asked}, it says {said or 'nothing'}; nothing was kept.")


def by(sizes: Sequence[int]) -> str:
    """ "1x224x224x3"; an open size is "?"."""
    return "x".join("?" if size == _OPEN else str(size) for size in sizes) or "scalar"


@dataclass(frozen=True)
class _Graph:
    """One graph of a model, and the signature that it is known by."""

    signature: str | None
    number: int
    inputs: tuple[Input, ...]


def condition_of(
    model: Path, shapes: Mapping[str, Sizes] | None = None, signature: str | None = None
) -> Condition | None:
    """What is measured of a model; None where the file cannot be read and nothing is asked for: a device will say why.

    Args:
        model: the `.tflite` file.
        shapes: sizes by the name of an input; of what is not named an open first size is 1.
        signature: which is measured; needed where the model has several.

    Raises:
        InputError: no such input or signature, an input is left open, or sizes that are fixed otherwise.
    """
    try:
        with (
            reading(f"The model {model}"),
            model.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,  # it may be larger than the memory
        ):
            graphs = _graphs(cast(bytes, content))
    except InputError:
        if shapes or signature is not None:
            raise
        return None
    graph, sizes = _chosen(model, graphs, signature), shapes or {}
    names = [each.name for each in graph.inputs]
    if (asked := next((name for name in sizes if name not in names), None)) is not None:
        raise InputError(f"{model} has no input {asked!r}. {near(asked, names)}")
    closed = tuple(_closed(model, each, sizes.get(each.name)) for each in graph.inputs)
    return Condition(graph.signature, len({each.number for each in graphs}) > 1, graph.inputs, closed)


def _chosen(model: Path, graphs: Sequence[_Graph], signature: str | None) -> _Graph:
    keys = [each.signature for each in graphs if each.signature is not None]
    if signature is None:
        if len({each.number for each in graphs}) > 1:
            names = cut(", ".join(keys))
            raise InputError(f"{model} has {counted(len(keys), 'signature')}: {names}. Say which: --signature NAME")
        return graphs[0]
    found = next((each for each in graphs if each.signature == signature), None)
    if found is None:
        raise InputError(f"{model} has no signature {signature!r}. {near(signature, keys)}")
    return found


def _closed(model: Path, each: Input, asked: Sizes | None) -> Sizes:
    """The sizes at which an input is measured."""
    if asked is None:
        sizes = tuple(1 if place == 0 and size == _OPEN else size for place, size in enumerate(each.sizes))
        if _OPEN in sizes:
            example = by([1 if place == 0 else 224 if size == _OPEN else size for place, size in enumerate(sizes)])
            raise InputError(
                f"{model}: its input {each.name!r} is open ({by(each.sizes)}), and what it takes depends on its sizes. "
                f"Say which: --shape {each.name}={example}"
            )
        return sizes
    fits = len(asked) == len(each.sizes) and all(
        size in (_OPEN, given) for size, given in zip(each.sizes, asked, strict=True)
    )
    if not fits or not all(0 < given <= _LARGEST for given in asked):
        raise InputError(f"{model}: its input {each.name!r} takes {by(each.sizes)}, received {by(asked)}.")
    return asked


def _graphs(content: bytes) -> list[_Graph]:
    """The graphs that a user can ask for: those of signatures, or else the first."""
    root = Table.root(content, b"TFL3")
    subgraphs = root.tables(_Model.SUBGRAPHS)
    found = []
    for signature in root.tables(_Model.SIGNATURES):
        names = {
            each.number(_Mapped.TENSOR, "I"): each.text(_Mapped.NAME) for each in signature.tables(_Signature.INPUTS)
        }
        number = signature.number(_Signature.SUBGRAPH, "I")
        found.append(_Graph(signature.text(_Signature.KEY), number, _inputs(subgraphs[number], names)))
    return found or [_Graph(None, 0, _inputs(subgraphs[0], {}))]


def _inputs(subgraph: Table, names: Mapping[int, str]) -> tuple[Input, ...]:
    inputs = []
    for number in map(int, subgraph.numbers(_Subgraph.INPUTS, "i")):
        tensor = subgraph.entry(_Subgraph.TENSORS, number)
        made, signature = (
            tuple(map(int, tensor.numbers(slot, "i"))) for slot in (_Tensor.SHAPE, _Tensor.SHAPE_SIGNATURE)
        )
        inputs.append(Input(number, names.get(number) or tensor.text(_Tensor.NAME), signature or made, made))
    return tuple(inputs)
