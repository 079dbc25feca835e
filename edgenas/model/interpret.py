"""Running a `.tflite` file on the host."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.errors import reading
from edgenas.model.quiet import quiet


def run_tflite(content: bytes, images: npt.NDArray[np.uint8], threads: int = 1) -> npt.NDArray[Any]:
    """[N, classes] raw outputs (float32 or uint8) for raw images [N, height, width, channels], one by one.

    Raises:
        InputError: the file is none that the runtime of this machine runs on such images.
    """
    from ai_edge_litert.interpreter import Interpreter

    with quiet(), reading("The .tflite file"):
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        given, wanted = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        outputs = np.empty((len(images), *wanted["shape"][1:]), dtype=wanted["dtype"])
    for index, image in enumerate(images):
        with reading("What the .tflite file gives"):
            interpreter.set_tensor(given["index"], np.ascontiguousarray(image[None], dtype=given["dtype"]))
            interpreter.invoke()
            outputs[index] = interpreter.get_tensor(wanted["index"])[0]
    return outputs


def class_scores(content: bytes, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """[N, classes] the softmax of what a model makes of raw images [N, height, width, channels]: shares of 1."""
    from ai_edge_litert.interpreter import Interpreter

    raw = run_tflite(content, images).astype(float)
    scale, zero_point = Interpreter(model_content=content).get_output_details()[0]["quantization"]
    logits = (raw - zero_point) * scale if scale else raw
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return scores
