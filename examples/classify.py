"""Classify pictures on a device with its live model: python classify.py ~/.edgenas/models/tools PICTURE...

For pictures of 8 bits a channel, brought to the model's size as in training; what is transparent in them is black.

Needs numpy, Pillow, a TFLite runtime (ai-edge-litert or tflite-runtime), and live_model.py beside it.
"""

import json
import math
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
        image = Image.open(picture)
        if image.mode[0] in "IF":
            raise SystemExit(f"{picture}: more than 8 bits a channel; bring it to 8 bits as edgenas does in training.")
        image.draft(None, (2 * max(self.height, self.width), 2 * max(self.height, self.width)))
        image = ImageOps.exif_transpose(image)
        if image.mode not in ("L", "RGB") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
        sized = bring(image, self.width, self.height, self.policy).convert("L" if self.channels == 1 else "RGB")
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


def bring(image: Image.Image, width: int, height: int, policy: str) -> Image.Image:
    """An image to the model's size, as in training. Halves round up; an odd row of padding is below, a column right."""
    how = {"resample": Image.Resampling.BILINEAR, "reducing_gap": 3.0}
    if policy == "fit" or image.size == (width, height):
        return image.resize((width, height), **how)
    across, down = width / image.width, height / image.height
    if policy == "crop":
        share = max(across, down)
        x, y = (max(0.0, (side - part / share) / 2) for side, part in zip(image.size, (width, height), strict=True))
        return image.resize((width, height), box=(x, y, image.width - x, image.height - y), **how)
    wide, high = (max(1, math.floor(side * min(across, down) + 0.5)) for side in image.size)
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(image.resize((wide, high), **how), ((width - wide) // 2, (height - high) // 2))
    return canvas


if __name__ == "__main__":
    classify = Classifier(LiveModel(sys.argv[1]).folder())
    for name in sys.argv[2:]:
        label, score = classify(Path(name))
        print(f"{name}: {label} {score:.1%}")
