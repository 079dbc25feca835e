"""Valid inputs to begin from: a project with a bundle, a table, a study, data and images. Made once, in seconds."""

import base64
import io
import os
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgenas.deploy import Bundle
from edgenas.model import workers
from tests.deploy.inside import FINGERPRINTED
from tests.made import BUNDLE, FLOAT32, INT8

STUDY, TABLE = "night", "board"


class _MadeBefore:
    """In the place of a pool of processes that convert."""

    def __init__(self, **_: Any) -> None:
        pass

    def submit(self, work: object, path: Path, *_: Any) -> "Future[None]":
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FLOAT32, path)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def shutdown(self, **_: Any) -> None:
        pass


def make(folder: Path) -> None:
    """Fill a new folder."""
    folder.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        _bundle()
        _data()
        _images()
        _study()
        _tables()
        _reference()
    finally:
        os.chdir(before)


def _bundle() -> None:
    shutil.copytree(BUNDLE, "bundle")
    Bundle.load(Path("bundle")).pack(Path("packed.edgenas"))
    for model in (INT8, FLOAT32):
        shutil.copy(model, model.name)


def _data() -> None:
    rng = np.random.default_rng(0)
    content = io.BytesIO()
    np.savez(content, x=rng.integers(0, 256, (60, 8, 8, 1)).astype(np.uint8), y=np.arange(60) % 3)
    Path("data.npz").write_bytes(content.getvalue())


def _images() -> None:
    rng = np.random.default_rng(1)
    for folder in ("images", "many"):
        Path(folder).mkdir()
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (10, 12, 3)).astype(np.uint8)).save(f"many/{number}.png")
    pixels = rng.integers(0, 256, (24, 30, 3)).astype(np.uint8)
    colour = Image.fromarray(pixels)
    for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"):
        colour.save(f"images/colour.{suffix}")
    colour.convert("L").save("images/grey.png")
    colour.convert("P").save("images/palette.png")
    colour.convert("1").save("images/bits.png")
    colour.convert("RGBA").save("images/alpha.png")
    colour.convert("CMYK").save("images/cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save("images/turned.jpg", exif=exif)
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 200).save("images/deep.png")
    Image.fromarray(pixels[:, :, 0].astype(np.float32) / 255).save("images/floats.tiff")
    colour.save("images/moving.gif", save_all=True, append_images=[colour.rotate(90)] * 3)


def _study() -> None:
    """A study of a few trials, with a table whose costs are made up."""
    from edgenas.space import MobileSpace
    from edgenas.strategy import Limits, Settings, Study
    from edgenas.strategy.objectives import FreeObjectives
    from edgenas.strategy.settings import begin
    from tests.strategy.conftest import Formula, made_up

    space = MobileSpace("tiny", (8, 8, 1), 10)
    table = made_up(space)
    table.save(Path(f"latency_tables/{TABLE}.json"))
    settings = Settings(
        study=STUDY, data="digits", device="board", table=TABLE, space="tiny", input_shape=(8, 8, 1), trials=6,
        limits=Limits(max_latency_ms=1e6),
    )  # fmt: skip
    begin(settings)
    Study(settings, space, FreeObjectives(space, table, "int8", settings.limits)).run(Formula())


def _tables() -> None:
    """What others make: once-for-all's YAML and a CSV; a small table of our own, and a device."""
    key = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))).decode()
    Path("devices").mkdir(exist_ok=True)
    Path("devices/board.toml").write_text(
        f'url = "ssh://pi@127.0.0.1:1"\nhost_key = "ssh-ed25519 {key}"\nfolder = ".edgenas"\n\n[runtime]\n'
        'package = "ai-edge-litert"\ncores = [0]\n\n[limits]\nmax_latency_ms = 5.0\n'
    )
    rows = [
        "Conv-input:8x8x1-output:4x4x16: {count: 30, mean: 0.04, std: 0.001}",
        "expanded_conv-input:4x4x16-output:4x4x16-expand:48-kernel:3-stride:1-idskip:1-se:0-hs:0: {mean: 0.05}",
        "expanded_conv-input:4x4x16-output:2x2x24-expand:3-kernel:5-stride:2-idskip:0: {mean: 0.1, count: 9}",
        "Logits-input:2x2x24-output:10: {count: 30, mean: 0.01, std: 0.001}",
    ]
    Path("theirs.yaml").write_text("\n".join(rows) + "\n")
    layers = ["layer,ms", "mbconv_k3_e3_s1_c16_relu6@28x28x16,0.1", "conv_k3_s2_c16_relu6@32x32x3,0.2", "x,0.3"]
    Path("theirs.csv").write_text("\n".join(layers) + "\n")


def _reference() -> None:
    """The model that is measured beside others: its file, so that nothing is converted."""
    from edgenas.latency.profiling.measuring import reference_path

    inside = vars(workers)
    really, inside["ProcessPoolExecutor"] = inside["ProcessPoolExecutor"], _MadeBefore
    try:
        reference_path()
    finally:
        inside["ProcessPoolExecutor"] = really


# What an agent says when all is well: the answers to each command, in the order in which it asks

_SHA = "a" * 64
_RECORD = {
    "model": "night", "study": "night", "candidate": "0123456789ab", "accuracy": 0.9, "predicted_ms": 0.1,
    "measured_ms": 0.11, "interval_ms": [0.1, 0.12], "sha256": {"model.tflite": _SHA}, "precision": "int8",
}  # fmt: skip
_SINGLE = {
    "first_us": 50.0, "load_us": 70.0, "times_us": [10.0 + number / 100 for number in range(10)], "lost": [False] * 10,
    "away": 0.0, "late": 0.0, "reference_us": [9.0, 9.1, 9.0], "peak_rss_growth_kb": 100,
    "inputs": [{"shape": [1, 8, 8, 1], "dtype": "uint8", "scale": 0.0, "zero_point": 0}],
    "outputs": [{"shape": [1, 10], "dtype": "uint8", "scale": 0.1, "zero_point": 3}],
}  # fmt: skip
_STATUS = {
    "load_average": 0.1, "cpu_percent": 3.0, "temperature_c": 40.0, "frequency_mhz": 1500.0, "throttled": False,
    "highest_frequency_mhz": 1800.0, "memory_available_kb": 1 << 19,
}  # fmt: skip
_DEPLOYED = [{"name": "night", "release": 7, "previous": None, "since": "2026-11-29T00:00:00Z", "record": _RECORD}]
_LIVE = {"release": 7, "folder": "WORK/models/night/releases/7", "manifest_sha256": _SHA, "signed_by": None}
ANSWERS: dict[tuple[str, ...], list[Any]] = {
    ("doctor", "board"): [FINGERPRINTED, _STATUS],
    ("deployed", "board"): [_DEPLOYED],
    ("deployed", "board", "--json"): [_DEPLOYED],
    ("rollback", "board", "night"): [{"release": 3, "from": 7}, {}],
    ("verify", "board", "night"): [_LIVE, FINGERPRINTED, _SINGLE, {"rows": 3, "seconds": 0.1}],
    ("key", "list", "board"): [{"trusted": ["0" * 16]}],
    ("measure", "int8.tflite", "board", "--runs", "10"): [FINGERPRINTED, {"held": True}, _SINGLE],
    ("measure", "int8.tflite", "board", "--runs", "10", "--json"): [FINGERPRINTED, {"held": True}, _SINGLE],
    ("ship", "bundle", "board", "--as", "night", "--dry-run"): [
        FINGERPRINTED, {"held": True}, _DEPLOYED, {"folder": "WORK/blobs", "lacking": []},
        {"folder": "WORK/s/release", "scratch": "WORK/s/scratch", "signed_by": None}, {"rows": 3, "seconds": 0.1},
        _SINGLE,
    ],
}  # fmt: skip
