"""Latency tables that others made, as EdgeNAS' own: read from once-for-all's or ProxylessNAS' YAML, or from a CSV.

A key becomes a layer only where it tells all that the layer's notation tells; everything else is listed with the
reason. What keys mean is what these sources say:

- without `se` and `hs`: `LatencyEstimator` in mit-han-lab/proxylessnas, search/utils/latency_estimator.py, and
  `ProxylessNASLatencyTable` in mit-han-lab/once-for-all, ofa/nas/efficiency_predictor/latency_lookup_table.py.
  `expand` is the expansion ratio; the activation is ReLU6 (`MBInvertedConvLayer` in search/modules/layers.py).
- with `se` and `hs`: `MBv3LatencyTable` in that same file of once-for-all. `expand` is the number of channels inside
  the block (its `mid`: `expand:408` where 136 come in). `hs:1` is hard-swish, `hs:0` ReLU, the only other one of
  ofa/imagenet_classification/networks/mobilenet_v3.py.
- times are means in ms, with `count` measurements and their `std` (once-for-all) or `var` (ProxylessNAS).

Such a table says nothing of an empty model, of a reference or of whole networks: it has no certificate.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

import edgenas.files as files
from edgenas.architecture import Dense, Layer, MBConv
from edgenas.architecture.blocks import Activation
from edgenas.errors import InputError, reading
from edgenas.latency.table import SUFFIX, Entry, Identity, LatencyTable
from edgenas.latency.table.parts import LEAST, MOST
from edgenas.ledger import Ledger

# once-for-all's tables are 15 kB each. Reading a MB of YAML takes seconds, and a hostile file could be any size.
_LARGEST_BYTES = 1_000_000
_WIDEST = 1e6  # an interval, as a share of the time
_SHOWN = 160  # characters of a key or a value that a message shows


@dataclass(frozen=True)
class Imported:
    """What came of a file.

    Attributes:
        table: its source is "imported", so it doubts itself. Of an entry, `cold_us` is None: the files tell nothing
            of a first inference. `half_width` is of the mean, and None where no spread is given.
        unmapped: (key, reason) of everything in the file that is not in the table.
        format: what the file is, in words.
    """

    table: LatencyTable
    unmapped: tuple[tuple[str, str], ...]
    format: str


@dataclass(frozen=True)
class _Row:
    """A line of a file.

    Attributes:
        key: names the layer.
        values: text by name: "mean", "std", "var", "count".
    """

    key: str
    values: dict[str, str]


@dataclass(frozen=True)
class _Format:
    """A kind of file.

    Attributes:
        words: what it is.
        rows: reads its text; an InputError says that it is no such file.
        layer: the layer that a key names; an InputError says why there is none.
    """

    words: str
    rows: Callable[[str], list[_Row]]
    layer: Callable[[str], Layer]


def stated_identity(device: str, precision: str, threads: int, runtime: str) -> Identity:
    """What the user says of a table's origin, for these files say nothing of it."""
    return Identity(
        device=files.check_name("device", device),
        fingerprint="",
        cpu="",
        cpu_cores=0,
        memory_mb=0,
        os="",
        kernel="",
        firmware="",
        governor="",
        runtime=runtime,
        runtime_version="",
        delegate="",
        threads=threads,
        cores=None,
        precision=precision,
        converter="",
    )


def read_table(path: Path, identity: Identity) -> Imported:
    """Read a table from a YAML file (once-for-all, ProxylessNAS) or a CSV file (layer notation, ms; a header or none).

    Args:
        identity: of the device that the file's times are from.

    Raises:
        InputError: it is none of these files.
    """
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise InputError(
            f"{path} is no table that can be imported: expected FILE.yaml of once-for-all or ProxylessNAS, or FILE.csv "
            "with a layer and its ms a line."
        )
    content = _read(path)
    try:
        rows = form.rows(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{path} is no {form.words}: it is no text.") from None
    except InputError as error:
        raise InputError(f"{path} is no {form.words}: {error}") from None
    entries, unmapped = _map(rows, form)
    provenance = {"file": path.name, "sha256": files.sha256(content), "format": form.words, "unmapped": len(unmapped)}
    table = LatencyTable(identity, "imported", ("", 0.0), 0.0, entries, provenance=provenance)
    return Imported(table, tuple(unmapped), form.words)


def check_new(name: str) -> str:
    """`name` if a table can be saved under it.

    Raises:
        InputError: it is no name, or another table has it, which may be a measured one.
    """
    files.check_name("latency table (--as TABLE)", name)
    if files.find_shipped("latency_tables", name, SUFFIX) is not None:
        raise InputError(f"There is a latency table {name!r} already: choose another name with --as, or remove it.")
    return name


def save(imported: Imported, name: str) -> Path:
    """Write the table into the project's `latency_tables/` and a line into its ledger; the table's path."""
    path = Path("latency_tables") / f"{check_new(name)}{SUFFIX}"
    imported.table.save(path)
    Ledger(Path(".edgenas") / "ledger.jsonl").append("imported", table=name, **imported.table.provenance)
    return path


def _read(path: Path) -> bytes:
    with reading(str(path), "A latency table to import is a small file."):
        return files.read_small(path, _LARGEST_BYTES)


def _map(rows: Iterable[_Row], form: _Format) -> tuple[dict[Layer, Entry], list[tuple[str, str]]]:
    """Entries by layer, and (key, reason) of what is none."""
    mapped: list[tuple[str, Layer, Entry]] = []
    unmapped: list[tuple[str, str]] = []
    for row in rows:
        try:
            mapped.append((row.key, form.layer(row.key), _entry(row.values)))
        except InputError as error:
            unmapped.append((_shown(row.key), str(error)))
    times = Counter(layer for _, layer, _ in mapped)
    for key, layer, _ in mapped:
        if times[layer] > 1:
            unmapped.append((_shown(key), f"its layer is there {times[layer]} times: which one holds?"))
    return {layer: entry for _, layer, entry in mapped if times[layer] == 1}, unmapped


def _shown(text: str) -> str:
    """Foreign text, fit for a terminal: without control characters, and not endless."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


# Times


def _entry(values: dict[str, str]) -> Entry:
    mean_ms = _number(values, "mean")
    if mean_ms is None:
        raise InputError("it gives no time")
    us = mean_ms * 1000
    if not LEAST <= us <= MOST:
        raise InputError(f"its time is {_shown(values['mean'])} ms, expected a positive, finite one")
    return Entry(us, _half_width(values, mean_ms), None)


def _half_width(values: dict[str, str], mean_ms: float) -> float | None:
    """Of the 95% confidence interval of the mean, as a share of it."""
    count, std_ms, var = (_number(values, name) for name in ("count", "std", "var"))
    for name, value in (("std", std_ms), ("var", var)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"its {name} is {_shown(values[name])}, expected a number of at least 0")
    if count is not None and not (math.isfinite(count) and count >= 1 and count.is_integer()):
        raise InputError(f"its count is {_shown(values['count'])}, expected a whole number of at least 1")
    if std_ms is None and var is not None:
        std_ms = math.sqrt(var)
    if std_ms is None or count is None or count < 2:
        return None
    share = 1.96 * std_ms / math.sqrt(count) / mean_ms
    if not share <= _WIDEST:
        raise InputError(f"its spread is out of all proportion to its time of {_shown(values['mean'])} ms")
    return share


def _number(values: dict[str, str], name: str) -> float | None:
    if name not in values:
        return None
    try:
        return float(values[name])
    except ValueError:
        raise InputError(f"its {name} is {_shown(values[name])!r}, expected a number") from None


# Keys of once-for-all and ProxylessNAS

_NUMBER = "[1-9][0-9]{0,5}"
_KIND = re.compile("([A-Za-z0-9_]+)-input:[0-9x]+-output:[0-9x]+(-.*)?")
_BLOCK = re.compile(
    "expanded_conv-input:(?P<height>N)x(?P<width>N)x(?P<channels>N)-output:(?P<rows>N)x(?P<columns>N)x(?P<outputs>N)"
    "-expand:(?P<expand>N)-kernel:(?P<kernel>N)-stride:(?P<stride>N)-idskip:(?P<idskip>[01])"
    "(-se:(?P<se>[01])-hs:(?P<hs>[01]))?".replace("N", _NUMBER)
)
_CLASSIFIER = re.compile(f"Logits-input:1x1x({_NUMBER})-output:({_NUMBER})")
_NO_KERNEL = "its key tells neither kernel nor activation"
_NO_LAYER = {
    "expanded_conv": "its key lacks a part, or has one that is no number that can be",
    "Conv": _NO_KERNEL,
    "Conv_1": _NO_KERNEL,
    "Conv_2": _NO_KERNEL,
    "AvgPool2D": "a pooling alone: EdgeNAS has it in the head",
    "Logits": "pooling and classifier in one time: EdgeNAS has the pooling in the head",
}


def _foreign_layer(key: str) -> Layer:
    """The layer that a key of once-for-all or ProxylessNAS names."""
    if (block := _BLOCK.fullmatch(key)) is not None:
        return _inverted_bottleneck({name: int(text) for name, text in block.groupdict().items() if text is not None})
    # Where one pixel comes in nothing is left to pool, and the classifier is alone.
    if (classifier := _CLASSIFIER.fullmatch(key)) is not None:
        channels, classes = map(int, classifier.groups())
        return Layer(Dense(classes), ((1, 1, channels),))
    kind = _KIND.fullmatch(key)
    raise InputError(_NO_LAYER.get(kind[1] if kind else "", "no kind of layer that EdgeNAS can read"))


def _inverted_bottleneck(part: dict[str, int]) -> Layer:
    """The layer of a key `expanded_conv-...`, from its numbers by name."""
    channels, expansion = part["channels"], part["expand"]
    activation: Activation = "relu6"
    if "hs" in part:
        # Channels inside (MBv3LatencyTable), which are never fewer than come in: a smaller number is the ratio itself.
        inside = 0
        if part["expand"] >= channels:
            expansion, inside = divmod(part["expand"], channels)
        activation = "hardswish" if part["hs"] else "relu"
        # SEModule in once-for-all's ofa/utils/pytorch_modules.py, against `MBConv`.
        if part["se"]:
            raise InputError(
                "its gate is another one: it squeezes to a quarter of the channels inside and ends in a hard sigmoid, "
                "that of EdgeNAS squeezes to a share of the channels that come in and ends in a sigmoid"
            )
        if inside:
            raise InputError(f"its {part['expand']} channels inside are no multiple of the {channels} that come in")
    block = MBConv(
        kernel=part["kernel"],
        expansion=expansion,
        stride=part["stride"],
        channels=part["outputs"],
        activation=activation,
    )
    layer = Layer(block, ((part["height"], part["width"], channels),))
    if layer.output_shape != (part["rows"], part["columns"], part["outputs"]):
        shape = "x".join(map(str, layer.output_shape))
        raise InputError(f"its output is another one than that of this block in EdgeNAS, {shape}")
    if block.adds(layer.input_shapes) != bool(part["idskip"]):
        does, here = ("adds", "does not") if part["idskip"] else ("does not add", "does")
        raise InputError(f"it {does} its input to its output; this block in EdgeNAS {here}")
    return layer


# Files


def _yaml_rows(text: str) -> list[_Row]:
    """The pairs of a mapping at the top.

    Only the graph of nodes is composed: no object is made, so tags run nothing, aliases and merge keys multiply
    nothing, and a key that is there twice is seen twice.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"it is no YAML ({error.problem}{line}).") from None
    except RecursionError:
        raise InputError("it is nested deeper than any table.") from None
    except yaml.YAMLError as error:
        raise InputError(f"it is no YAML ({_shown(' '.join(str(error).split()))}).") from None
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    rows = [_Row(key.value if isinstance(key, yaml.ScalarNode) else "", _scalars(value)) for key, value in pairs]
    if not any(_KIND.fullmatch(row.key) for row in rows):
        raise InputError("it has no key such as Conv-input:224x224x3-output:112x112x32.")
    return rows


def _scalars(node: yaml.Node) -> dict[str, str]:
    """The texts of a mapping's values by key."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {
        key.value: value.value
        for key, value in pairs
        if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)
    }


def _csv_rows(text: str) -> list[_Row]:
    """The lines; the first is a header where it is neither a layer nor a time."""
    try:
        lines = [[cell.strip() for cell in line] for line in csv.reader(text.splitlines()) if any(map(str.strip, line))]
    except csv.Error as error:
        raise InputError(f"it is no CSV ({error}).") from None
    if lines and len(lines[0]) == 2 and "@" not in lines[0][0] and not _is_number(lines[0][1]):
        del lines[0]
    if not any(len(line) == 2 and _is_number(line[1]) for line in lines):
        raise InputError("it has no line such as conv_k3_s2_c16_relu6@28x28x1,0.021.")
    return [_Row(line[0], {"mean": line[1]}) if len(line) == 2 else _Row(",".join(line), {}) for line in lines]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _own_layer(key: str) -> Layer:
    """The layer that EdgeNAS' own notation names."""
    layer = Layer.parse(_shown(key))  # whose errors repeat the text
    _ = layer.output_shape  # a block refuses inputs that it cannot take
    return layer


_YAML = _Format("table of once-for-all or ProxylessNAS (YAML)", _yaml_rows, _foreign_layer)
_CSV = _Format("table of layers and their ms (CSV)", _csv_rows, _own_layer)
_FORMATS = {".yaml": _YAML, ".yml": _YAML, ".csv": _CSV}
