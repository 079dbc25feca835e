"""Samples of labelled images as one picture: a contact sheet."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import edgenas.files as files
from edgenas.evaluation.data import Dataset

_COLUMNS, _MOST_CLASSES, _SIDE, _GAP, _LABEL = 10, 40, 72, 4, 110


def draw_samples(dataset: Dataset, path: Path) -> None:
    """Draw up to ten images of each class, at the network's own size and as it will see them.

    Args:
        dataset: whose first forty classes are drawn, a row each; the images are the same each time.
        path: of a PNG.
    """
    rng = np.random.default_rng(0)
    classes = range(min(dataset.classes, _MOST_CLASSES))
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (_LABEL + _COLUMNS * step, len(classes) * step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for row, label in enumerate(classes):
        members = np.flatnonzero(dataset.y == label)
        chosen = np.sort(rng.choice(members, min(_COLUMNS, len(members)), replace=False))
        draw.text((_GAP, row * step + step / 2), shortened(dataset.labels[label]), "black", font, anchor="lm")
        for column, index in enumerate(chosen):
            sheet.paste(thumbnail(np.asarray(dataset.x[index]), _SIDE), (_LABEL + column * step, row * step + _GAP))
    save(sheet, path)


def shortened(label: str) -> str:
    """A class's name that fits beside its pictures."""
    return label if len(label) <= 15 else f"{label[:14]}…"


def thumbnail(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", side: int) -> Image.Image:
    """An image [H, W, C] in a square; its own pixels stay visible."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)


def save(image: Image.Image, path: Path) -> None:
    """As PNG, whole or not at all."""
    content = io.BytesIO()
    image.save(content, "PNG")
    files.write_atomically(path, content.getvalue())
