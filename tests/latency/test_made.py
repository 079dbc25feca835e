"""The files that virtual machines measure are what the converter writes."""

import zipfile
from typing import Any

import pytest

from edgenas.architecture import Layer
from edgenas.latency.profiling.measuring import REFERENCE
from edgenas.latency.profiling.profiler import EMPTY
from edgenas.model import Precision
from tests.latency.made import ARCHIVE, PLAN, SUBJECTS, Subject, convert, file_name


def read(content: bytes) -> list[Any]:
    """Each operator's kind, and the shapes of its tensors."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    shapes = {tensor["index"]: tuple(tensor["shape"]) for tensor in interpreter.get_tensor_details()}
    return [
        (operator["op_name"], *([shapes.get(index) for index in operator[which]] for which in ("inputs", "outputs")))
        for operator in interpreter._get_ops_details()
    ]


@pytest.mark.parametrize(
    ("subject", "precision"),
    [
        (EMPTY, "int8"), (Layer.parse("mbconv_k5_e3_s2_c24_relu6@16x16x16"), "int8"), (PLAN.reference, "int8"),
        (REFERENCE, "float32"),
    ],
)  # fmt: skip
def test_making_them_again_gives_the_same(subject: Subject, precision: Precision) -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        made = archive.read(file_name(subject, precision))
    assert read(convert(subject, precision)) == read(made)


def test_all_are_there_and_none_besides() -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        assert sorted(archive.namelist()) == sorted(file_name(*each) for each in SUBJECTS)
