"""Draw a folder of colour photographs that never were, to try EdgeNAS on: signs and parts, lit, turned and cluttered.

    python examples/make_images.py images

writes images/train/CLASS/*.jpg and images/test/CLASS/*.jpg: 6 classes, 250 training and 100 test images each, 40 to 300
pixels wide. The same seed draws the same images (with the same Pillow). Nothing is downloaded: the letters are of the
fonts that come with matplotlib.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

# "Display" has no letters.
FONTS = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVuS*[!y].ttf"))
CANVAS = 256  # a thing is drawn at this size, in white on black
Rng = np.random.Generator
Colour = tuple[int, int, int]


def polygon(points: list[tuple[float, float]], hole: float = 0.0) -> Image.Image:
    """A filled polygon, its corners in -1..1, with a round hole in the middle."""
    mask = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(mask)
    draw.polygon([((x * 0.9 + 1) * CANVAS / 2, (y * 0.9 + 1) * CANVAS / 2) for x, y in points], fill=255)
    reach = hole * CANVAS / 2
    if hole:
        draw.ellipse([CANVAS / 2 - reach, CANVAS / 2 - reach, CANVAS / 2 + reach, CANVAS / 2 + reach], fill=0)
    return mask


def around(count: int, radius: Callable[[float], float]) -> list[tuple[float, float]]:
    """Corners around the middle, at a distance that depends on the turn, 0..1."""
    turns = [number / count for number in range(count)]
    return [(radius(t) * math.cos(2 * math.pi * t), radius(t) * math.sin(2 * math.pi * t)) for t in turns]


def letter(text: str, rng: Rng) -> Image.Image:
    """A letter of a font that is drawn."""
    mask = Image.new("L", (CANVAS, CANVAS))
    font = ImageFont.truetype(str(FONTS[rng.integers(len(FONTS))]), int(CANVAS * 0.8))
    ImageDraw.Draw(mask).text((CANVAS / 2, CANVAS / 2), text, fill=255, font=font, anchor="mm")
    return mask


def nut(rng: Rng) -> Image.Image:
    return polygon(around(6, lambda t: 1.0), rng.uniform(0.35, 0.55))


def gear(rng: Rng) -> Image.Image:
    teeth, depth = int(rng.integers(8, 14)), rng.uniform(0.15, 0.3)
    return polygon(around(teeth * 4, lambda t: 1.0 - depth * (t * teeth % 1 >= 0.5)), rng.uniform(0.15, 0.45))


def arrow(rng: Rng) -> Image.Image:
    width, head, neck = rng.uniform(0.12, 0.3), rng.uniform(0.5, 0.85), rng.uniform(-0.1, 0.3)
    half = [(neck, width), (neck, head), (1.0, 0.0)]
    return polygon([(-1.0, -width), *((x, -y) for x, y in half[:2]), half[2], *reversed(half[:2]), (-1.0, width)])


def star(rng: Rng) -> Image.Image:
    points, inner = int(rng.integers(5, 8)), rng.uniform(0.35, 0.55)
    return polygon(around(points * 2, lambda t: 1.0 if round(t * points * 2) % 2 == 0 else inner))


THINGS: dict[str, Callable[[Rng], Image.Image]] = {
    "ampersand": lambda rng: letter("&", rng),
    "arrow": arrow,
    "gear": gear,
    "nut": nut,
    "question": lambda rng: letter("?", rng),
    "star": star,
}


def clutter(rng: Rng) -> Image.Image:
    """What lies about and is none of the things."""
    if rng.random() < 0.5:
        return letter("ABCHKMTXZ2457"[rng.integers(13)], rng)
    return polygon(around(int(rng.integers(3, 5)), lambda t: 1.0), rng.uniform(0, 0.5) * (rng.random() < 0.5))


def colour(rng: Rng) -> np.ndarray:
    return rng.integers(20, 236, 3).astype(float)


def ground(rng: Rng, side: int) -> np.ndarray:
    """float [side, side, 3]: two colours that run into each other, with a grain."""
    y, x = np.mgrid[0:side, 0:side] / side
    turn = rng.uniform(0, 2 * math.pi)
    share = np.clip((x - 0.5) * math.cos(turn) + (y - 0.5) * math.sin(turn) + 0.5, 0, 1)[..., None]
    grain = Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    rough = (np.asarray(grain, float)[..., None] / 255 - 0.5) * rng.uniform(0, 70)
    return np.clip(colour(rng) * share + colour(rng) * (1 - share) + rough, 0, 255)


def put(image: np.ndarray, mask: Image.Image, size: float, rng: Rng, contrast: float) -> None:
    """A thing into an image, turned and slanted, somewhere, in a colour that differs from what is behind it."""
    side = image.shape[0]
    turned = mask.crop(mask.getbbox()).rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC, expand=True)
    slant = rng.uniform(-0.25, 0.25)
    width, height = turned.size
    turned = turned.transform(
        turned.size, Image.Transform.AFFINE, (1, slant, -slant * height / 2, 0, rng.uniform(1.0, 1.4), 0),
        Image.Resampling.BICUBIC,
    )  # fmt: skip
    turned = turned.crop(turned.getbbox())
    width, height = turned.size
    scale = size * side / max(width, height)
    small = turned.resize((max(4, round(width * scale)), max(4, round(height * scale))), Image.Resampling.LANCZOS)
    left, top = (int(rng.integers(-reach // 8, max(1, side - reach + reach // 8))) for reach in small.size)
    whole = Image.new("L", (side, side))
    whole.paste(small, (left, top))
    share = np.asarray(whole, float)[..., None] / 255
    behind = (image * share).sum(axis=(0, 1)) / max(share.sum(), 1e-6)
    paint = colour(rng)
    while np.abs(paint - behind).sum() < contrast:
        paint = colour(rng)
    image += (paint - image) * share


def photograph(thing: str, rng: Rng) -> Image.Image:
    """One image."""
    side = int(rng.integers(40, 301))
    image = ground(rng, side)
    for _ in range(int(rng.integers(0, 4))):
        put(image, clutter(rng), rng.uniform(0.12, 0.3), rng, 40)
    put(image, THINGS[thing](rng), rng.uniform(0.4, 0.85), rng, 110)
    for _ in range(int(rng.integers(0, 2))):
        put(image, clutter(rng), rng.uniform(0.08, 0.18), rng, 40)
    y, x = np.mgrid[0:side, 0:side] / side
    lamp = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 1))[..., None]
    image = image * (rng.uniform(0.7, 1.25) - rng.uniform(0, 0.5) * lamp) + rng.normal(
        0, rng.uniform(0, 14), image.shape
    )
    drawn = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        drawn = drawn.filter(ImageFilter.GaussianBlur(rng.uniform(0, side / 90)))
    if rng.random() < 0.3:
        drawn = ImageChops.invert(drawn)
    width, height = side, round(side * rng.uniform(0.75, 1.0))
    return drawn.resize((width, max(40, height)), Image.Resampling.BICUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=250, help="images a class (250)")
    parser.add_argument("--test", type=int, default=100, help="images a class (100)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for split, count in (("train", options.train), ("test", options.test)):
        for place, thing in enumerate(THINGS):
            folder = options.folder / split / thing
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                rng = np.random.default_rng([options.seed, split == "test", place, number])
                photograph(thing, rng).save(folder / f"{number:04}.jpg", quality=int(rng.integers(60, 95)))
    print(f"{len(THINGS)} classes of {options.train} training and {options.test} test images in {options.folder}")


if __name__ == "__main__":
    main()
