"""How an image is brought to a model's size: one rule in training, in the example for boards, in that for Android."""

import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgenas.evaluation.data import prepare_image

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES = json.loads((Path(__file__).parent / "sizing.json").read_text())
SOME = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, [case["policy"], *case["image"]])))


def picture(case: dict[str, Any]) -> Image.Image:
    """Its pixels follow from its size: none is black."""
    wide, high = case["image"]
    y, x = np.mgrid[0:high, 0:wide]
    return Image.fromarray(((y * 37 + x * 23) % 200 + 40).astype(np.uint8))


def golden(case: dict[str, Any]) -> list[list[int]]:
    return [list(bytes.fromhex(row)) for row in case["pixels"]]


@pytest.fixture(scope="module")
def example() -> Any:
    """examples/classify.py, without a runtime."""
    stubs = {name: ModuleType(name) for name in ("live_model", "ai_edge_litert", "ai_edge_litert.interpreter")}
    stubs["live_model"].LiveModel = stubs["ai_edge_litert.interpreter"].Interpreter = object  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in stubs.items():
            patch.setitem(sys.modules, name, stub)
        spec = importlib.util.spec_from_file_location("classify_example", EXAMPLES / "classify.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def classifier(example: Any, shape: tuple[int, int, int], policy: str) -> Any:
    made = example.Classifier.__new__(example.Classifier)
    (made.height, made.width, made.channels), made.policy = shape, policy
    return made


@SOME
def test_in_training(case: dict[str, Any]) -> None:
    width, height = case["input"]
    assert prepare_image(picture(case), (height, width, 1), case["policy"])[..., 0].tolist() == golden(case)


@SOME
def test_in_the_example_for_boards(case: dict[str, Any], example: Any, tmp_path: Path) -> None:
    width, height = case["input"]
    picture(case).save(tmp_path / "a.png")
    made = classifier(example, (height, width, 1), case["policy"])
    assert made.pixels(tmp_path / "a.png")[..., 0].tolist() == golden(case)


@SOME
def test_in_the_example_for_android(case: dict[str, Any]) -> None:
    """Its lines are written so that they are Python too."""
    code = (EXAMPLES / "android" / "EdgeNasModel.kt").read_text()
    (body,) = re.findall(r"fun place\((.*?)\n        }\n", code, re.DOTALL)
    (names,) = re.findall(r"^(.*?)\): List<Double> {", body)
    values = [case["policy"], *map(float, (*case["image"], *case["input"]))]
    known: dict[str, Any] = dict(zip(re.findall(r"(\w+):", names), values, strict=True))
    known |= {"floor": math.floor, "min": min, "max": max}
    for name, expression in re.findall(r"val (\w+) = (.*)", body):
        known[name] = eval(expression, known)
    (expression,) = re.findall(rf'"{case["policy"]}" -> listOf\((.*)\)', body)
    assert eval(f"[{expression}]", known) == pytest.approx(case["place"], abs=1e-6)


def test_the_golden_places_are_those_of_the_golden_pixels() -> None:
    for case in CASES:
        left, top, wide, high = case["place"]
        filled = np.argwhere(np.array(golden(case)) > 0)
        assert filled.min(axis=0).tolist() == [max(0, top), max(0, left)]
        assert (filled.max(axis=0) + 1).tolist() == [
            min(case["input"][1], top + high),
            min(case["input"][0], left + wide),
        ]


def test_grey_on_android_is_that_of_training() -> None:
    code = (EXAMPLES / "android" / "EdgeNasModel.kt").read_text()
    (expression,) = re.findall(r"val grey = (.*)", code)
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    grey = prepare_image(Image.fromarray(colours), (16, 16, 1))[..., 0]
    told = [
        [int(eval(expression.replace("/", "//"), {"rgb": [int(v) for v in rgb]})) for rgb in row] for row in colours
    ]
    assert grey.tolist() == told


@pytest.mark.parametrize("policy", ["pad", "crop", "fit"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_all_kinds_are_the_same_in_the_example(
    policy: Any, channels: int, example: Any, tmp_path: Path
) -> None:
    y, x = np.mgrid[0:150, 0:211]
    colour = Image.fromarray(np.stack([x % 256, y, (x + y) % 256, 255 - y], -1).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    colour.convert("RGB").save(tmp_path / "large.jpg", exif=turned)
    colour.save(tmp_path / "alpha.png")
    colour.convert("P").save(tmp_path / "palette.png", transparency=7)
    colour.convert("LA").save(tmp_path / "grey.png")
    colour.convert("1").save(tmp_path / "bit.png")
    colour.convert("CMYK").save(tmp_path / "print.jpg")
    shape = (17, 22, channels)
    made = classifier(example, shape, policy)
    for path in sorted(tmp_path.iterdir()):
        assert (made.pixels(path) == prepare_image(path, shape, policy)).all(), path.name


def test_what_the_example_would_read_wrong_it_refuses(example: Any, tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SystemExit, match=r"deep.png: more than 8 bits a channel"):
        classifier(example, (4, 4, 1), "pad").pixels(tmp_path / "deep.png")
