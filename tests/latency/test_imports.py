"""Tables made elsewhere: which keys become which layers, which do not and why, and files that mean harm."""

import os
from pathlib import Path

import pytest

from edgenas.architecture import Layer
from edgenas.errors import InputError
from edgenas.latency.table import LatencyTable, imports
from edgenas.latency.table.imports import Imported, read_table, stated_identity

IDENTITY = stated_identity("note10", "float32", 1, "tflite-runtime")
RATIO = "expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:3-stride:2-idskip:0"
INSIDE = "expanded_conv-input:10x10x96-output:10x10x96-expand:288-kernel:5-stride:1-idskip:1-se:0-hs:1"
STEM = "Conv-input:224x224x3-output:112x112x32"
HEAD = "Logits-input:7x7x1280-output:1000"


def read(path: Path, text: str | bytes) -> Imported:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(path, IDENTITY)


def lines(*keys: str, rest: str = "mean: 2.0") -> str:
    return "".join(f"{key}: {{{rest}}}\n" for key in keys)


def layers(found: Imported) -> dict[str, float]:
    return {str(layer): entry.us for layer, entry in found.table.entries.items()}


# Keys


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        (RATIO, "mbconv_k3_e6_s2_c24_relu6@112x112x16"),
        (RATIO.replace("112x112", "111x64").replace("56x56", "56x32"), "mbconv_k3_e6_s2_c24_relu6@111x64x16"),
        (
            "expanded_conv-input:7x7x192-output:7x7x192-expand:3-kernel:7-stride:1-idskip:1",
            "mbconv_k7_e3_s1_c192_relu6@7x7x192",
        ),
        (INSIDE, "mbconv_k5_e3_s1_c96_hardswish@10x10x96"),
        (INSIDE.replace("hs:1", "hs:0"), "mbconv_k5_e3_s1_c96_relu@10x10x96"),
        (
            "expanded_conv-input:80x80x24-output:80x80x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0",
            "mbconv_k3_e1_s1_c24_relu@80x80x24",
        ),
        ("Logits-input:1x1x1536-output:1000", "dense_n1000@1x1x1536"),
    ],
)
def test_a_key_that_tells_everything_becomes_its_layer(tmp_path: Path, key: str, layer: str) -> None:
    found = read(tmp_path / "t.yaml", lines(key))
    assert layers(found) == {layer: 2000.0}
    assert found.unmapped == ()
    assert Layer.parse(layer).operators


def test_once_for_all_gives_ratios_or_channels_inside(tmp_path: Path) -> None:
    """Fewer channels inside than come in there never are: such a number is a ratio."""
    ratio = "expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:3-stride:2-idskip:0-se:0-hs:0"
    inside = ratio.replace("expand:6", "expand:96")
    for key in (ratio, inside):
        found = read(tmp_path / "t.yaml", lines(key))
        assert [str(layer) for layer in found.table.entries] == ["mbconv_k3_e6_s2_c24_relu@112x112x16"]


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (STEM, "neither kernel nor activation"),
        ("Conv_1-input:7x7x320-output:7x7x1280", "neither kernel nor activation"),
        ("Conv_2-input:1x1x1152-output:1x1x1536", "neither kernel nor activation"),
        ("AvgPool2D-input:5x5x1152-output:1x1x1152", "a pooling alone"),
        (HEAD, "pooling and classifier in one time"),
        ("Logits-input:1x1x1280-output:1", "at least 2 classes"),
        ("Linear-input:1280-output:1000", "no kind of layer"),
        ("something else", "no kind of layer"),
        (INSIDE.replace("se:0", "se:1"), "quarter of the channels inside"),
        (INSIDE.replace("expand:288", "expand:184"), "its 184 channels inside are no multiple of the 96 that come in"),
        (INSIDE.replace("idskip:1", "idskip:0"), "it does not add its input to its output; this block in EdgeNAS does"),
        (RATIO.replace("idskip:0", "idskip:1"), "it adds its input to its output; this block in EdgeNAS does not"),
        (RATIO.replace("56x56", "56x55"), "its output is another one than that of this block in EdgeNAS, 56x56x24"),
        (RATIO.replace("kernel:3", "kernel:4"), "an odd kernel"),
        (RATIO.replace("kernel:3", "kernel:0"), "no number that can be"),
        (RATIO.replace("kernel:3", f"kernel:{'3' * 400}"), "no number that can be"),
        (RATIO.replace("-stride:2", ""), "lacks a part"),
        (RATIO + "-se:0", "lacks a part"),
    ],
)
def test_a_key_that_does_not_is_listed_with_the_reason(tmp_path: Path, key: str, why: str) -> None:
    found = read(tmp_path / "t.yaml", lines(STEM, key) if key != STEM else lines(STEM))
    assert found.table.entries == {}
    assert found.unmapped[-1][0] == (key if len(key) <= 160 else key[:160] + "...")
    assert why in found.unmapped[-1][1]


# Times


@pytest.mark.parametrize(
    ("rest", "half_width"),
    [
        ("mean: 2.0, std: 0.5, count: 100", 1.96 * 0.05 / 2),
        ("mean: 2.0, var: 0.25, count: 100", 1.96 * 0.05 / 2),
        ("mean: 2.0, std: 0, count: 100", 0.0),
        ("mean: 2.0, std: 0.5, count: 1", None),
        ("mean: 2.0, std: 0.5", None),
        ("mean: 2.0, count: 100", None),
        ("mean: 2.0", None),
        ("mean: 2", None),
        ("mean: 2e0, note: [1, 2]", None),
    ],
)
def test_spread_and_count_give_the_interval(tmp_path: Path, rest: str, half_width: float | None) -> None:
    (entry,) = read(tmp_path / "t.yml", lines(RATIO, rest=rest)).table.entries.values()
    assert (entry.us, entry.cold_us) == (2000.0, None)
    assert entry.half_width == (None if half_width is None else pytest.approx(half_width))


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("mean: 0.0", "its time is 0.0 ms, expected a positive, finite one"),
        ("mean: -1", "its time is -1 ms"),
        ("mean: .nan", "its mean is '.nan', expected a number"),
        ("mean: nan", "its time is nan ms"),
        ("mean: 1e308", "its time is 1e308 ms"),
        ("mean: fast", "its mean is 'fast', expected a number"),
        ("mean: [1.0]", "it gives no time"),
        ("std: 1", "it gives no time"),
        ("mean: 2, std: -0.1, count: 9", "its std is -0.1"),
        ("mean: 2, var: inf, count: 9", "its var is inf"),
        ("mean: 2, std: 0.1, count: 0", "its count is 0"),
        ("mean: 2, std: 0.1, count: 2.5", "its count is 2.5"),
        ("mean: 1e-14, std: 1e300, count: 2", "its spread is out of all proportion"),
    ],
)
def test_a_time_that_no_measurement_gives_is_listed(tmp_path: Path, rest: str, why: str) -> None:
    found = read(tmp_path / "t.yaml", lines(RATIO, rest=rest))
    assert found.table.entries == {}
    assert [key for key, _ in found.unmapped] == [RATIO]
    assert why in found.unmapped[0][1]


def test_of_a_layer_that_is_there_twice_none_is_taken(tmp_path: Path) -> None:
    found = read(tmp_path / "t.yaml", lines(RATIO, INSIDE, RATIO))
    assert list(layers(found)) == ["mbconv_k5_e3_s1_c96_hardswish@10x10x96"]
    assert found.unmapped == ((RATIO, "its layer is there 2 times: which one holds?"),) * 2


# CSV


@pytest.mark.parametrize("header", ["", "layer,ms\n", "\ufefflayer, latency in ms\n\n"])
def test_a_csv_of_our_own_notation(tmp_path: Path, header: str) -> None:
    found = read(tmp_path / "t.CSV", header + "input_28x28x1@28x28x1,0.004\r\n conv_k3_s2_c16_relu6@28x28x1 , 2e-2\r\n")
    assert layers(found) == pytest.approx({"input_28x28x1@28x28x1": 4.0, "conv_k3_s2_c16_relu6@28x28x1": 20.0})
    assert {entry.half_width for entry in found.table.entries.values()} == {None}
    assert found.unmapped == ()


@pytest.mark.parametrize(
    ("line", "key", "why"),
    [
        ("mbconv_k3_e6_s2_c24@8x8x8,1", "mbconv_k3_e6_s2_c24@8x8x8", "lacks its activation"),
        ("conv_k3_s2_c16_relu7@8x8x8,1", "conv_k3_s2_c16_relu7@8x8x8", "Unknown part"),
        ("112x112x16-56x56x24-expand:3,5.6", "112x112x16-56x56x24-expand:3", "is no layer"),
        ("dense_n10@1x1x8+1x1x8,1", "dense_n10@1x1x8+1x1x8", "Expected one input"),
        (f"dense_n10@1x1x{'9' * 99},1", f"dense_n10@1x1x{'9' * 99}", "is no layer"),
        ("dense_n10@1x1x8,0.1,0.2", "dense_n10@1x1x8,0.1,0.2", "is no layer: expected BLOCK"),
        ("dense_n10@1x1x8,", "dense_n10@1x1x8", "expected a number"),
        ("dense_n10@1x1x8,-1", "dense_n10@1x1x8", "positive, finite"),
        ("dense_n10@1x1x8,1e300", "dense_n10@1x1x8", "positive, finite"),
        ("\x1b[31mred,1", r"'\x1b[31mred'", "is no layer"),
    ],
)
def test_a_line_that_is_no_layer_and_time_is_listed(tmp_path: Path, line: str, key: str, why: str) -> None:
    found = read(tmp_path / "t.csv", f"dense_n10@1x1x4,0.1\n{line}\n")
    assert layers(found) == {"dense_n10@1x1x4": 100.0}
    ((listed, reason),) = found.unmapped
    assert listed == key and why in reason and reason.isprintable()


# The table


def test_it_says_where_it_is_from_and_that_nobody_checked_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = imports.save(read(tmp_path / "lut.yaml", lines(RATIO, STEM, rest="mean: 2, std: 0.1, count: 9")), "lut")
    table = LatencyTable.load("lut")
    assert path == Path("latency_tables/lut.json")
    assert (table.source, table.certificate, table.reference, table.empty_us) == ("imported", None, ("", 0.0), 0.0)
    assert table.doubt == "the table is imported"
    identity = table.identity
    assert (identity.device, identity.runtime, identity.precision, identity.threads) == (
        "note10", "tflite-runtime", "float32", 1,
    )  # fmt: skip
    assert (identity.cpu, identity.cpu_cores, identity.runtime_version, identity.cores) == ("", 0, "", None)
    assert table.provenance["file"] == "lut.yaml" and table.provenance["unmapped"] == 1
    assert '"imported"' in Path(".edgenas/ledger.jsonl").read_text()
    with pytest.raises(InputError, match="There is a latency table 'lut' already: choose another name with --as"):
        imports.check_new("lut")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "two words"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"no name for a latency table \(--as TABLE\)"):
        imports.check_new(name)
    with pytest.raises(InputError, match="no name for a device"):
        stated_identity(name, "int8", 1, "ai-edge-litert")


# Files that are none, and files that mean harm


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("t.json", "{}", r"no table that can be imported: expected FILE\.yaml"),
        ("t", "", r"no table that can be imported"),
        ("t.yaml", "", r"it has no key such as Conv-input:224x224x3"),
        ("t.yaml", "[1, 2]", r"it has no key such as"),
        ("t.yaml", "name: x\nvalue: 3\n", r"it has no key such as"),
        ("t.yaml", "a: b: c", r"it is no YAML \(mapping values are not allowed here in line 1\)"),
        ("t.yaml", "a: \x00", r"it is no YAML \(unacceptable character #x0000"),
        ("t.yaml", lines(STEM) + "---\n" + lines(STEM), r"it is no YAML \(but found another document in line 2"),
        ("t.yaml", b"\xff\xfe\x00", "it is no text"),
        ("t.yaml", "[" * 1500, "it is nested deeper than any table"),
        ("t.yaml", b" " * 1_000_001, "it is larger than 976 kB"),
        ("t.csv", "", r"it has no line such as conv_k3_s2_c16_relu6@28x28x1,0\.021"),
        ("t.csv", "layer;ms\nconv;1\n", "it has no line such as"),
        ("t.csv", "x" * 140_000 + ",1", "it is no CSV"),
    ],
)
def test_a_file_that_is_none_of_these_is_refused(tmp_path: Path, name: str, content: str | bytes, why: str) -> None:
    with pytest.raises(InputError, match=why) as refused:
        read(tmp_path / name, content)
    assert str(tmp_path / name) in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml cannot be read: No such file"):
        read_table(tmp_path / "gone.yaml", IDENTITY)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InputError, match=r"folder\.yaml cannot be read: it is no file"):
        read_table(tmp_path / "folder.yaml", IDENTITY)


def test_tags_aliases_and_merge_keys_do_nothing(tmp_path: Path) -> None:
    lists = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    merges = "m0: &m0 {mean: 1}\n" + "".join(
        f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
    )
    bombs = f"{INSIDE}: *a29\n? [{RATIO}]\n: 1\n{HEAD}: &loop {{mean: *loop}}\n"
    tag = f'{STEM}: !!python/object/apply:os.system ["touch {tmp_path / "harm"}"]\n'
    found = read(tmp_path / "t.yaml", lists + merges + bombs + tag + lines(RATIO))
    assert layers(found) == {"mbconv_k3_e6_s2_c24_relu6@112x112x16": 2000.0}
    assert len(found.unmapped) == 64 and all(len(reason) < 300 for _, reason in found.unmapped)
    assert not (tmp_path / "harm").exists()


def test_what_a_key_says_cannot_paint_the_terminal(tmp_path: Path) -> None:
    found = read(tmp_path / "t.yaml", lines(STEM, r'"\e[2J\ud800"', r'"' + "x" * 900 + '"'))
    assert all(key.isprintable() and len(key) < 200 for key, _ in found.unmapped)


def test_half_width_is_never_what_json_cannot_hold(tmp_path: Path) -> None:
    for spread in ("1e9", "1e300"):
        found = read(tmp_path / "t.yaml", lines(RATIO, rest=f"mean: 1e-9, std: {spread}, count: 2"))
        assert not found.table.entries and "its spread is out of all proportion" in found.unmapped[0][1]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"t.csv cannot be read: it is no file"):
        read_table(tmp_path / "t.csv", IDENTITY)
