"""Which operators a `.tflite` file asks for, read from the file itself: no runtime is needed, and none is trusted."""

import functools

from edgenas.errors import CheckFailedError, reading

CUSTOM = "custom:"


def operator_kinds(content: bytes) -> tuple[str, ...]:
    """TFLite's names, sorted, of the operators that a file uses, such as "CONV_2D".

    One that is not built in, or newer than the schema here, is named "custom:NAME"; TensorFlow's own, which need the
    Flex delegate, are custom operators whose names start with "Flex".

    Raises:
        CheckFailedError: it is no `.tflite` file.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = _builtin_names()
    with reading("The .tflite file", error=CheckFailedError):
        if not schema.Model.ModelBufferHasIdentifier(content, 0):
            raise CheckFailedError("This is no .tflite file: it does not say TFL3.")
        model = schema.Model.GetRootAs(content, 0)
        found = set()
        for index in range(model.OperatorCodesLength()):
            code = model.OperatorCodes(index)
            # Up to 127 the number may stand in the older, smaller field alone.
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            name = names.get(number, f"{CUSTOM}number {number}")
            if number == schema.BuiltinOperator.CUSTOM:
                name = CUSTOM + (code.CustomCode() or b"").decode("utf-8", "replace")
            found.add(name)
    return tuple(sorted(found))


@functools.cache
def _builtin_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
