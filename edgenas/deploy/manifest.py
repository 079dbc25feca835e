"""What a bundle says of itself: pure data, written as JSON with a checksum, read strictly."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import edgenas.files as files
from edgenas.errors import CheckFailedError, InputError, reading, shown
from edgenas.evaluation.recipe import Recipe
from edgenas.latency.table import Identity

FORMAT = 6
FILE = "manifest.json"
LARGEST_BYTES = 4 << 20  # of a manifest, and of labels: 20,000 classes take less


@dataclass(frozen=True)
class Network:
    """What was deployed: its notation, its id, and its number of classes."""

    notation: str
    id: str
    classes: int


@dataclass(frozen=True)
class Preprocessing:
    """What must happen to an image before it is given to the model.

    Attributes:
        input_shape: [height, width, channels].
        policy: how an image of another size is brought to it ("fit", "crop" or "pad").
        pixels: always raw ones, 0-255: normalisation is inside the graph.
    """

    input_shape: tuple[int, int, int]
    policy: str
    pixels: str = "raw, 0-255"


@dataclass(frozen=True)
class Study:
    """The study that chose the network, its seed, and the candidate's id there."""

    name: str
    seed: int
    candidate: str


@dataclass(frozen=True)
class TableUsed:
    """The latency table that the choice rests on."""

    name: str
    source: str
    identity: Identity


@dataclass(frozen=True)
class Predicted:
    """What the network was said to cost before it was trained.

    Attributes:
        latency_ms: None without a table.
        latency_interval_ms: holds the measured latency with probability `coverage`; None without a certificate.
        doubt: why the latency is no promise; None where it is.
    """

    latency_ms: float | None
    latency_interval_ms: tuple[float, float] | None
    coverage: float | None
    doubt: str | None
    arena_kb: float
    model_kb: float
    peak_memory_kb: float


@dataclass(frozen=True)
class Accuracy:
    """How often it is right, as fractions.

    Attributes:
        float_test: of the network before it was converted (after a repair: the repaired one), on the test split.
        test, balanced, recall: of the deployed file, on the test split; recall by label, None where none was there.
        float_test_interval, test_interval: Wilson's, coverage 95%.
        test_candidates: how many of the study's candidates the test split was opened for, this one included: who takes
            the best of several by it has chosen by it, and its accuracy flatters.
        acceptance: of the deployed file, on the acceptance split.
    """

    float_test: float
    float_test_interval: tuple[float, float]
    test: float
    test_interval: tuple[float, float]
    balanced: float
    recall: dict[str, float | None]
    acceptance: float
    test_candidates: int


@dataclass(frozen=True)
class Gate:
    """What a gate found; see `edgenas.deploy.gates`.

    Attributes:
        name: one of `GATES`.
        passed: whether what it found is accepted.
        detail: that in words, with what is accepted.
        figures: the same by name.
        allowed: it failed, and `--allow` let the bundle through.
    """

    name: str
    passed: bool
    detail: str
    figures: dict[str, float]
    allowed: bool = False


@dataclass(frozen=True)
class Repair:
    """What was done because int8 cost too much accuracy.

    Attributes:
        kind: "none", or "fine-tuned" with rounding in the forward pass.
        steps: of fine-tuning, even where its result was no better and was left; 0 where there was no need.
        loss_before, loss_after: accuracy that int8 costs on the selection images, as fractions; None: not looked for.
    """

    kind: Literal["none", "fine-tuned"] = "none"
    steps: int = 0
    loss_before: float | None = None
    loss_after: float | None = None


@dataclass(frozen=True)
class Manifest:
    """All that a bundle's `manifest.json` holds.

    Attributes:
        precision: of `model.tflite`: "float32", "int8", or "mixed": int8 but for `float_layers`.
        float_layers: numbers of the network's layers that stay in float32.
        gates: what each found; all were run before the test split was opened.
        repair: of an int8 network.
        recipe, steps: how it was trained.
        release: its number; on a device a release is never followed by an older one. See `new_release`.
        files: SHA-256 by name of every other file of the bundle, the signature's apart.
        model_bytes: of `model.tflite`.
        limits: of the study, by name ("max_latency_ms" and so on); None: no limit.
        versions: of the packages that made it.
        created: UTC.
    """

    architecture: Network
    precision: str
    float_layers: tuple[int, ...]
    preprocessing: Preprocessing
    study: Study
    table: TableUsed | None
    predicted: Predicted
    limits: dict[str, float | None]
    accuracy: Accuracy
    gates: tuple[Gate, ...]
    repair: Repair
    recipe: Recipe
    steps: int
    versions: dict[str, str]
    created: str
    release: int
    files: dict[str, str]
    model_bytes: int
    format: int = FORMAT


def new_release(after: int = 0) -> int:
    """A number for a release, above `after`: the time, UTC to the second, such as 20261124154501.

    So the numbers of one project grow wherever they are made, without anybody who counts.
    """
    return max(int(time.strftime("%Y%m%d%H%M%S", time.gmtime())), after + 1)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write it with its checksum."""
    content = files.as_mapping(manifest)
    content["checksum"] = files.sha256(files.canonical_json(content).encode())
    files.write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        InputError: missing, no JSON, or of another format.
        CheckFailedError: changed since it was written.
    """
    absent = f"{path.parent} is no bundle: it has no {path.name}. `edgenas train STUDY` writes one."
    with reading(f"The manifest {path}", "Train the bundle again.", missing=absent):
        content = files.parse_json(files.read_small(path, LARGEST_BYTES))
        checksum, received = content.pop("checksum"), files.sha256(files.canonical_json(content).encode())
    if content.get("format") != FORMAT:
        raise InputError(
            f"The bundle {path.parent} has format {shown(content.get('format'))}, expected {FORMAT}. Train it again, "
            "or use the version of EdgeNAS that wrote it."
        )
    if received != checksum:
        raise CheckFailedError(f"{path} was changed after it was written: its checksum does not match.")
    return files.from_mapping(Manifest, content, str(path))
