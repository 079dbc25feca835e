"""Images and folders of images that are none, or odd ones."""

import os
import random
import struct
import unicodedata
import zlib
from pathlib import Path

from benchmarks.fuzzing.mutations import TEXTS, json_or_not, put, spoil_bytes


def images(rng: random.Random) -> list[list[str]]:
    """Files that are said to be images."""
    path = rng.choice(sorted(Path("images").iterdir()))
    content = path.read_bytes()
    odd = Path(
        rng.choice(
            ("odd.png", "odd.jpg", path.name, f"odd{rng.choice(TEXTS)[:20]}.png".replace("/", "").replace("\0", ""))
        )
    )
    what = rng.random()
    if what < 0.15 and path.suffix == ".png":
        content = _sized_png(rng, content)
    elif what < 0.2:
        content = rng.choice((b"", b"<svg/>", b"%PDF-1.4", b"#!/bin/sh\n", b"GIF89a" + b"\xff" * 10, bytes(1000)))
    else:
        content = spoil_bytes(rng, content)
    try:
        put(rng, odd, content)
    except (OSError, UnicodeEncodeError):
        odd = Path("odd.png")
        put(rng, odd, content)
    return [["predict", *json_or_not(rng, ["bundle"]), "--", str(odd), "images/grey.png"]]


def _sized_png(rng: random.Random, content: bytes) -> bytes:
    """It says that it is of another size, with the checksum of that."""
    size = struct.pack(">II", *(rng.choice((0, 1, 7, 5000, 20_000, 100_000, 2**31 - 1)) for _ in range(2)))
    head = b"IHDR" + size + bytes([rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)), 0, 0, rng.choice((0, 1))])
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def folders(rng: random.Random) -> list[list[str]]:
    """Folders that are said to hold labelled images."""
    root = Path("labelled")
    pool = [path for path in sorted(Path("images").iterdir()) if path.name != "floats.tiff"]
    pool = [*rng.sample(pool, 3), *rng.sample(sorted(Path("many").iterdir()), 60)]
    splits = rng.choice(
        ((), (), (), ("train", "test"), ("train", "val", "test"), ("training_set", "test"), ("a", "train"))
    )
    labels = [
        rng.choice(_ODD) if rng.random() < 0.1 else label for label in rng.sample(_LABELS, rng.choice((1, 2, 3, 5)))
    ]
    for split in splits or ("",):
        for label in labels:
            folder = root / split / label
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(rng.choice((5, 6, 7, 12)) if rng.random() < 0.95 else rng.choice((0, 1, 60))):
                    image = pool.pop() if len(pool) > 1 and rng.random() < 0.99 else pool[0]
                    _put_image(rng, folder, number, image)
            except (OSError, ValueError):
                continue
    for _ in range(rng.choice((0, 0, 0, 0, 1, 3))):
        _put_odd(rng, rng.choice([path for path in [root, *root.rglob("*")] if path.is_dir()] or [Path()]))
    options = rng.choice(
        ([], ["--policy", "crop"], ["--group-pattern", rng.choice(("(.)", "(a+)+$", "(", ".*", "(?P<x>.)_"))])
    )
    argv = ["data", "check", "labelled", "--input", "8x8x3", "--no-pace", "--sheet", "s.png", *options]
    return [json_or_not(rng, argv)]


_LABELS = ["cat", "dog", "Cat", "é", "日本", "🙂", "0", "00", "a,b", '"', "[bold]", "%s", "-rf", "x" * 200]
_ODD = [
    " cat", "cat ", unicodedata.normalize("NFD", "é"), "a\nb", "\x1b[31m", "@eaDir", "__MACOSX", ".hidden", "train",
    "test", "con", "half-\udcff",
]  # fmt: skip


def _put_image(rng: random.Random, folder: Path, number: int, image: Path) -> None:
    target = folder / f"{number}{image.suffix}"
    if rng.random() < 0.99:
        os.link(image, target)
    elif rng.random() < 0.5:
        put(rng, target, spoil_bytes(rng, image.read_bytes()))
    else:
        target.symlink_to(rng.choice((image.absolute(), "..", target.name, "/dev/zero", "nowhere")))


def _put_odd(rng: random.Random, folder: Path) -> None:
    odd = folder / rng.choice(("Thumbs.db", ".DS_Store", "readme.txt", "odd.png", "loop", "labels.csv"))
    what = rng.randrange(6)
    if odd.exists() or odd.is_symlink():
        return
    if what == 0:
        odd.symlink_to(folder.absolute())
    elif what == 1:
        os.mkfifo(odd)
    elif what == 2:
        odd.mkdir()
    elif what == 3:
        deep = odd
        for _ in range(40):
            deep = deep / "d"
        deep.mkdir(parents=True)
    elif what == 4:
        folder.chmod(0)
    else:
        odd.write_bytes(rng.randbytes(100))
