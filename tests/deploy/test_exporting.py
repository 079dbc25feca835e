"""Bundles for other tools: what an app and a microcontroller get is what was tested, whatever the labels are."""

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, export
from edgenas.deploy.bundle import FLOAT_MODEL
from edgenas.errors import CheckFailedError, InputError
from edgenas.evaluation.data.images import Policy
from edgenas.latency.memory import arena_kb
from edgenas.model import Precision
from edgenas.model.metadata import Metadata, add_metadata, operators_of, read_metadata
from tests import made
from tests.made import SMALL
from tests.terminal import Terminal

EXAMPLE = Path(__file__).parents[2] / "examples" / "android"
HOSTILE = (
    'a "quoted" one',
    "back\\slash\\",
    "$(touch pwned) `id` %s",
    "what??/ trigraphs??'??<",
    "Ölflasche 🛢 日本",
    "é1 then a digit",
    "*/ // end of a comment",
    " blanks around ",
    "'; DROP TABLE labels; --",
    "-x",
)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Callable[[Precision], Bundle]:
    """A bundle of SMALL whose labels are HOSTILE."""

    def make(precision: Precision) -> Bundle:
        metadata = Metadata("n", "d", SMALL.id, "a", "i", HOSTILE, "grayscale")
        plain = made.INT8 if precision == "int8" else made.FLOAT32
        content = add_metadata(plain.read_bytes(), metadata)
        manifest = dataclasses.replace(bundle.manifest, precision=precision)
        return Bundle.write(tmp_path_factory.mktemp("hostile") / "b", manifest, content, HOSTILE, None)

    return make


def test_a_bundles_model_says_what_it_is(bundle: Bundle) -> None:
    metadata = read_metadata(bundle.model_path.read_bytes())
    assert metadata is not None
    assert metadata.labels == bundle.labels
    assert (metadata.name, metadata.version, metadata.colour) == ("night", SMALL.id, "grayscale")
    assert (metadata.mean, metadata.std) == (0, 1)
    assert "8x8x1" in metadata.image
    assert f"'{bundle.manifest.preprocessing.policy}'" in metadata.image
    assert "10 classes" in metadata.description
    assert metadata.author.startswith("EdgeNAS ")


def test_android_gets_what_was_tested(bundle: Bundle, tmp_path: Path) -> None:
    done = export(bundle, "android", tmp_path / "out", "shoes")
    assets = tmp_path / "out" / "assets" / "edgenas" / "shoes"
    assert sorted(done.files) == [
        "README.md", *(f"assets/edgenas/shoes/{name}" for name in ("labels.txt", "manifest.json", "model.tflite")),
    ]  # fmt: skip
    for name in ("labels.txt", "manifest.json", "model.tflite"):
        assert (assets / name).read_bytes() == (bundle.folder / name).read_bytes()
    assert all(files.sha256(tmp_path / "out" / name) == hash_ for name, hash_ in done.files.items())
    assert done.metadata == read_metadata(bundle.model_path.read_bytes())
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "8 rows of 8 pixels, one byte a channel" in readme
    assert "by `pad`" in readme
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "nothing is left beside it"


def test_the_kotlin_example_asks_for_what_is_there(bundle: Bundle, tmp_path: Path) -> None:
    """Each asset that it opens and each key that it reads."""
    code = (EXAMPLE / "EdgeNasModel.kt").read_text()
    export(bundle, "android", tmp_path / "out", "shoes")
    opened = re.findall(r'assets\.open\("([^"]+)"\)', code)
    checked = re.findall(r'checked\("([^"]+)"\)', code)
    assert sorted(checked) == ["labels.txt", "model.tflite"]
    read = [*checked, *re.findall(r'read\("([^"]+)"\)', code)]
    paths = {
        path.replace("$name", "shoes").replace("$file", file) for path in opened for file in read if "$" not in file
    }
    assert paths == {f"edgenas/shoes/{name}" for name in (*checked, "manifest.json")}
    assert all((tmp_path / "out" / "assets" / path).is_file() for path in paths)

    manifest = json.loads((tmp_path / "out" / "assets" / "edgenas" / "shoes" / "manifest.json").read_text())
    assert code.count("manifest.get") == 2
    policy, hashes = re.findall(r'manifest((?:\.get\w+\((?:"\w+"|file)\))+)', code)
    (outer, inner), (hashes_of,) = (re.findall(r'\("?(\w+)"?\)', keys) for keys in (policy, hashes))
    # The other precision of a bundle, as `ship --precision float32 --to-app` finds it in the manifest.
    (prefix,) = re.findall(r'it\.startsWith\("(\w+)"\)', code)
    assert FLOAT_MODEL.startswith(prefix)
    assert f'"{manifest[outer][inner]}" ->' in code
    assert all(manifest[hashes_of][file] == files.sha256(bundle.folder / file) for file in checked)
    assert re.findall(r'^ +"(\w+)" ->', code, re.MULTILINE) == list(get_args(Policy))
    assert "--format android" in (EXAMPLE / "README.md").read_text()


@pytest.mark.parametrize("form", ["android", "c-array"])
def test_what_is_there_stays(bundle: Bundle, tmp_path: Path, form: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(InputError, match=r"already something at .*overwrites nothing"):
            export(bundle, form, tmp_path / name)
    with pytest.raises(InputError, match=r"file/out cannot be written"):
        export(bundle, form, tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "link"]
    assert list((tmp_path / "empty").iterdir()) == []
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["../up", "a/b", "", "-x", ".hidden", "a b", "$(id)", "ü", "a\n", "x" * 64])
def test_a_name_that_could_escape_is_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    for form in ("android", "c-array"):
        with pytest.raises(InputError, match="is no name for a model"):
            export(bundle, form, tmp_path / "out", name)
    assert list(tmp_path.iterdir()) == []


def test_labels_in_the_model_that_are_not_the_bundles(bundle: Bundle, tmp_path: Path) -> None:
    content = bundle.model_path.read_bytes()
    mixed = Bundle.write(tmp_path / "b", bundle.manifest, content, bundle.labels[::-1], bundle.samples)
    with pytest.raises(CheckFailedError, match=r"The labels in .*model\.tflite are not those of labels\.txt"):
        export(mixed, "android", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_metadata_is_exported_and_said_to_be(bundle: Bundle, tmp_path: Path) -> None:
    plain = Bundle.write(tmp_path / "b", bundle.manifest, made.INT8.read_bytes(), bundle.labels, bundle.samples)
    done = export(plain, "android", tmp_path / "out")
    assert done.metadata is None
    assert "carries TFLite metadata" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("name", ["shoes", "my-shoes.v2"])
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_what_a_compiler_makes_of_the_source_is_the_model(
    hostile: Callable[[Precision], Bundle], tmp_path: Path, precision: Precision, name: str
) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler here: apt install g++")
    bundle = hostile(precision)
    done = export(bundle, "c-array", tmp_path / "out", name)
    c = name.replace("-", "_").replace(".", "_")
    assert done.name == c
    assert sorted(done.files) == [f"{c}_model.cc", f"{c}_model.h"]
    (tmp_path / "main.cc").write_text(_MAIN.replace("NAME", c))
    # -trigraphs: as compilers for small devices may have it.
    strict = ["-std=c++11", "-trigraphs", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wno-error=trigraphs"]
    sources = [tmp_path / "main.cc", tmp_path / "out" / f"{c}_model.cc"]
    subprocess.run(
        [compiler, *strict, f"-I{tmp_path / 'out'}", *sources, "-o", tmp_path / "main"],
        check=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    said = subprocess.run([tmp_path / "main"], check=True, capture_output=True, timeout=60, cwd=tmp_path).stdout
    content = bundle.model_path.read_bytes()
    head, rest = said.split(b"\n", 1)
    size, count, arena, operators, aligned = map(int, head.split())
    assert rest[:size] == content
    assert rest[size:].split(b"\0")[:-1] == [label.encode() for label in HOSTILE]
    assert (size, count, aligned) == (len(content), len(HOSTILE), 1)
    assert arena == done.arena_bytes
    assert operators == len(done.operators) == len(operators_of(content))
    assert not (tmp_path / "pwned").exists()


_MAIN = r"""
#include <cstdint>
#include <cstdio>
#include <cstring>
#include "NAME_model.h"
struct Resolver {
  int added = 0;
  void AddConv2D() { ++added; }
  void AddFullyConnected() { ++added; }
  void AddMean() { ++added; }
  void AddMul() { ++added; }
  void AddQuantize() { ++added; }
};
int main() {
  Resolver resolver;
  NAME_add_operators(resolver);
  const bool aligned = reinterpret_cast<std::uintptr_t>(NAME_model) % 16 == 0;
  if (resolver.added != static_cast<int>(NAME_operator_count)) return 1;
  std::printf("%u %u %u", NAME_model_size_bytes, NAME_label_count, NAME_arena_size_bytes);
  std::printf(" %d %d\n", resolver.added, aligned);
  std::fwrite(NAME_model, 1, NAME_model_size_bytes, stdout);
  for (unsigned int i = 0; i < NAME_label_count; ++i)
    std::fwrite(NAME_labels[i], 1, std::strlen(NAME_labels[i]) + 1, stdout);
}
"""


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_the_arena_is_what_is_predicted_and_a_tenth(
    hostile: Callable[[Precision], Bundle], tmp_path: Path, precision: Precision
) -> None:
    done = export(hostile(precision), "c-array", tmp_path / "out")
    predicted_bytes = float(arena_kb([SMALL], precision)[0]) * 1024
    assert done.arena_predicted_bytes == predicted_bytes
    assert done.arena_bytes is not None
    assert 1.1 * predicted_bytes <= done.arena_bytes < 1.1 * predicted_bytes + 16
    assert done.arena_bytes % 16 == 0
    header = (tmp_path / "out" / "night_model.h").read_text()
    assert f"night_arena_size_bytes: {done.arena_predicted_bytes} predicted" in header
    assert f"8x8x1 (height, width, channels), {'uint8' if precision == 'int8' else 'float32'}, raw pixels" in header


def test_what_no_identifier_can_be_made_of(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'2nd' begins with a digit.*--as NAME"):
        export(bundle, "c-array", tmp_path / "out", "2nd")


def test_a_manifest_cannot_write_source(bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path) -> None:
    """What a checksum alone protects may be anybody's: nothing of it becomes code."""
    policy = "pad\n*/ int main() { return 1; } //"
    forged = rewritten(
        bundle, tmp_path, preprocessing=dataclasses.replace(bundle.manifest.preprocessing, policy=policy)
    )
    for form in ("android", "c-array"):
        with pytest.raises(InputError, match="Expected a policy for images"):
            export(forged, form, tmp_path / "out")
    study = dataclasses.replace(bundle.manifest.study, name="x\n#include </etc/passwd>")
    with pytest.raises(InputError, match="is no name for a model"):
        export(
            dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, study=study)), "c-array", tmp_path
        )
    assert not (tmp_path / "out").exists()


def test_the_command(bundle: Bundle, tmp_path: Path) -> None:
    user = Terminal(tmp_path)
    said = user.gets("export", str(bundle.folder), "app", "--format", "android", "--as", "shoes")
    assert (said["format"], said["name"], said["labels_in_model"]) == ("android", "shoes", 10)
    assert all(files.sha256(tmp_path / "app" / name) == hash_ for name, hash_ in said["files"].items())

    done = user.types("export", str(bundle.folder), "micro", "--format", "c-array")
    assert done.returncode == 0, done.stderr
    assert "10 labels; a grayscale image, mean 0, std 1" in done.stdout
    assert "Conv2D, FullyConnected" in done.stdout
    assert re.search(r"arena +[\d,]+ bytes \([\d,]+ predicted", done.stdout)
    assert sorted(path.name for path in (tmp_path / "micro").iterdir()) == ["night_model.cc", "night_model.h"]


def test_the_command_refuses(bundle: Bundle, tmp_path: Path) -> None:
    user, words = Terminal(tmp_path), ("export", str(bundle.folder))
    (tmp_path / "there").mkdir()
    user.is_refused(2, "Did you mean 'android'?", *words, "out", "--format", "andriod")
    user.is_refused(2, "already something at there", *words, "there", "--format", "android")
    user.is_refused(2, "is no name for a model", *words, "out", "--format", "android", "--as", "../x")
    user.is_refused(2, "is no bundle", "export", "nope", "out", "--format", "android")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
