"""Classify pictures on a device with its live model: python classify.py ~/.edgenas/models/tools PICTURE...

For pictures of 8 bits a channel; what is transparent in them is black, as in training.

Needs numpy, Pillow, a TFLite runtime (ai-edge-litert or tflite-runtime), and live_model.py beside it.
"""

import json
import sys
from pathlib import Path

import numpy as np
from live_model import LiveModel
from PIL import Image, ImageOps

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter


class Classifier:
    """A release: its model, its labels, and how pictures were brought to its input in training."""

    def __init__(self, folder: Path) -> None:
        how = json.loads((folder / "manifest.json").read_text())["preprocessing"]
        self.height, self.width, self.channels = how["input_shape"]
        self.policy = how["policy"]
        self.labels = (folder / "labels.txt").read_text().splitlines()
        self.interpreter = Interpreter(str(folder / "model.tflite"))
        self.interpreter.allocate_tensors()

    def pixels(self, picture: Path) -> np.ndarray:
        """[height, width, channels] raw pixels, 0-255."""
        image = ImageOps.exif_transpose(Image.open(picture)).convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image).convert("L" if self.channels == 1 else "RGB")
        bring = {"pad": ImageOps.pad, "crop": ImageOps.fit, "fit": Image.Image.resize}[self.policy]
        sized = bring(image, (self.width, self.height), Image.Resampling.BILINEAR)
        return np.asarray(sized).reshape(self.height, self.width, self.channels)

    def __call__(self, picture: Path) -> tuple[str, float]:
        """The label of a picture, and its score: the softmax, 1 in all."""
        (given,), (gives,) = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        self.interpreter.set_tensor(given["index"], self.pixels(picture)[None].astype(given["dtype"]))
        self.interpreter.invoke()
        raw = self.interpreter.get_tensor(gives["index"])[0].astype(float)
        scale, zero_point = gives["quantization"]
        logits = (raw - zero_point) * scale if scale else raw
        scores = np.exp(logits - logits.max())
        best = int(scores.argmax())
        return self.labels[best], float(scores[best] / scores.sum())


if __name__ == "__main__":
    classify = Classifier(LiveModel(sys.argv[1]).folder())
    for name in sys.argv[2:]:
        label, score = classify(Path(name))
        print(f"{name}: {label} {score:.1%}")
