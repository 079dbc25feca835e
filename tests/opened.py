"""Models whose inputs are open, or that have several signatures, made of a small one by changing its flatbuffer."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from tests.made import FLOAT32


def opened(sizes: Sequence[int] = (-1, -1, -1, 1), path: Path = FLOAT32) -> bytes:
    """The network of 8x8x1 images with these sizes of its input, -1 open: where they are, the file has 1, as
    TensorFlow's converter writes it."""
    model = _load(path)
    _open(model.subgraphs[0], sizes)
    return _packed(model)


def with_signatures(*names: str, graphs: int = 2, sizes: Sequence[int] = (1, 16, 16, 1), path: Path = FLOAT32) -> bytes:
    """The network under the first name, and under the others again, in a graph of its own with other sizes of its
    input; with `graphs` 1 all names are of one graph."""
    model = _load(path)
    first = model.subgraphs[0]
    model.signatureDefs = []
    for number, name in enumerate(names):
        if 0 < number < graphs:
            model.subgraphs.append(copy.deepcopy(first))
            _open(model.subgraphs[-1], sizes)
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name, min(number, graphs - 1)
        signature.inputs = [_mapped("image", first.inputs[0])]
        signature.outputs = [_mapped("scores", first.outputs[0])]
        model.signatureDefs.append(signature)
    return _packed(model)


def _open(graph: Any, sizes: Sequence[int]) -> None:
    tensor = graph.tensors[graph.inputs[0]]
    tensor.shape, tensor.shapeSignature = [max(1, size) for size in sizes], list(sizes)


def _mapped(name: str, tensor: int) -> Any:
    mapped = schema.TensorMapT()
    mapped.name, mapped.tensorIndex = name, tensor
    return mapped


def _load(path: Path) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
