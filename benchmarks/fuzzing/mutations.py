"""How valid things are spoiled: bytes, values, texts, archives, arrays. All of it follows from a random generator."""

import copy
import io
import json
import os
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30,
    10**400, -(2**31), -(2**63) - 1, 0.0, -0.0, 0.5, 1.5, 1e-320, 1e-30, 1e15, 1e16, 1e200, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    "", " ", "\0", "a\0b", "\n", "\r\n", "\x1b[31mred\x1b[0m", "\u202egnp.exe", "\ud800", "half \udfff", "é", "e\u0301",
    "ﬁ", "İ", "ß", "日本語", "🙂" * 5, "../../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/null", "~", "$(id)",
    "`id`", "-", "--", "--help", "-rf", "a b", "'", '"', "%s%n", "{0}", "{x!r}", "[/x]", "[bold]", "nan", "inf",
    "1e999", "0x10", "1_000", "٣", "²", "None", "null", "true", "con", "nul", ".", "..", "x" * 256, "y" * 5000,
    "z" * 200_000, "(" * 5000, "(a+)+$", "[" * 3000, "\\", "a/b", "a\\b", "\ufeff", "𝟙𝟚", "1" * 5000,
)  # fmt: skip


def value(rng: random.Random) -> Any:
    """Something else than was meant."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(TEXTS)
    if kind == 6:
        return rng.choice((None, True, False, [], {}, [None], {"": 0}, [[]], [1, "a", None], {"a": {"b": []}}))
    deep: Any = 0
    for _ in range(rng.choice((3, 50, 200))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep


def spoil(rng: random.Random, whole: Any) -> Any:
    """A copy of plain data with one to four places changed."""
    whole = copy.deepcopy(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not isinstance(whole, dict | list) or not whole:
            return value(rng)
        _change(rng, *_place(rng, whole), *_place(rng, whole))
    return value(rng) if rng.random() < 0.01 else whole


def _place(rng: random.Random, whole: Any) -> tuple[Any, Any]:
    """Something in plain data, by what it is in and its key there: each branch is as likely, however large."""
    while True:
        key = rng.choice(list(whole)) if isinstance(whole, dict) else rng.randrange(len(whole))
        if not isinstance(whole[key], dict | list) or not whole[key] or rng.random() < 0.25:
            return whole, key
        whole = whole[key]


def _change(rng: random.Random, inside: Any, key: Any, other: Any, other_key: Any) -> None:
    what = rng.randrange(9)
    if what < 4:
        inside[key] = _near(rng, inside[key]) if rng.random() < 0.4 else value(rng)
    elif what == 4:
        del inside[key]
    elif what == 5:
        mine, theirs = inside[key], copy.deepcopy(other[other_key])
        inside[key], other[other_key] = theirs, copy.deepcopy(mine)
    elif what == 6 and isinstance(inside, dict):
        inside[rng.choice(TEXTS)] = inside.pop(key) if rng.random() < 0.5 else value(rng)
    elif what == 7 and isinstance(inside[key], list):
        inside[key] = inside[key] * rng.choice((0, 2, 100))
    else:
        inside[key] = [inside[key]] if rng.random() < 0.5 else {"x": inside[key]}


def _near(rng: random.Random, old: Any) -> Any:
    """Of the same type, where there is one."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return rng.choice((old + 1, old - 1, -old, old * 1000, 0, old << 40))
    if isinstance(old, float):
        return rng.choice((-old, old * 1e9, old * 1e-9, 0.0, float("nan"), float("inf")))
    if isinstance(old, str):
        at = rng.randrange(len(old) + 1)
        return rng.choice((old[:at], old * 3, old[:at] + rng.choice(TEXTS) + old[at:], old.upper(), old[::-1]))
    return value(rng)


def to_json(rng: random.Random, what: Any, indent: int | None = 1) -> bytes:
    """JSON as Python writes it, NaN and halves of characters included; now and then spoiled as a text."""
    text = json.dumps(what, ensure_ascii=rng.random() < 0.7, indent=indent)
    content = text.encode("utf-8", errors="surrogatepass")
    return spoil_bytes(rng, content) if rng.random() < 0.1 else content


def spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flipped bits, cuts, repeats, numbers of another size, another beginning; one to four of them."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            return rng.randbytes(rng.choice((0, 1, 100)))
        at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 16, 200, 5000))
        what = rng.randrange(9)
        if what <= 2:
            for _ in range(rng.choice((1, 1, 3, 20))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif what == 3:
            del data[at:]
        elif what == 4:
            del data[at : at + length]
        elif what == 5:
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
        elif what == 6:
            data[at : at + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
        elif what == 7:
            spoil_number(rng, data, at)
        else:
            data[at:at] = rng.choice((b"\0", b"\xff\xfe", b"\n", b"{", b"[" * 3000, b"\xed\xa0\x80", b'"'))
    return bytes(data)


def spoil_number(rng: random.Random, data: bytearray, at: int) -> None:
    """Another number of 1, 2, 4 or 8 bytes, in place."""
    size = rng.choice((1, 2, 4, 4, 8))
    at -= at % size
    number = rng.choice((0, 1, 127, 255, 2**15, 2**16 - 1, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
    packed = (number % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "little", "big")))
    data[at : at + size] = packed[: len(data) - at]


def spoil_lines(rng: random.Random, text: str) -> bytes:
    """A text whose lines, words or letters are changed: TOML, YAML, CSV."""
    lines = text.splitlines(keepends=True) or [""]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        head, sign, tail = lines[at].partition(rng.choice(("=", ":", ",")))
        what = rng.randrange(8)
        if what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif what == 2 and sign:
            new = value(rng)
            lines[at] = f"{head}{sign} {new if rng.random() < 0.5 else json.dumps(new)}\n"
        elif what == 3 and sign:
            lines[at] = f"{rng.choice(TEXTS)}{sign}{tail}"
        elif what == 4:
            lines[at] = lines[at].rstrip("\n") * rng.choice((2, 100)) + "\n"
        elif what == 5:
            lines[at] = rng.choice(("[[x]]\n", "a.b.c = 1\n", "x = [" + "[" * 2000 + "\n", '"""\n', "&a [*a]\n",
                                    "- ! !!python/object/apply:os.system ['true']\n", "x = 1979-05-27\n"))  # fmt: skip
        else:
            lines[at] = lines[at].swapcase() if rng.random() < 0.3 else f"{lines[at][:-1]}{rng.choice(TEXTS)}\n"
        lines = lines or [""]
    content = "".join(lines).encode("utf-8", errors="surrogatepass")
    return spoil_bytes(rng, content) if rng.random() < 0.15 else content


# Archives and arrays


def bomb(size_bytes: int) -> bytes:
    """A raw deflate stream of so many zeros, a thousandth of that in bytes, made at once."""
    block = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    return packed * (size_bytes // block) + b"\x03\x00"


def zipped(members: dict[str, bytes], rng: random.Random | None = None) -> bytes:
    """A zip archive; with `rng` one that was tampered with."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue() if rng is None else _tampered(rng, target.getvalue(), members)


def _tampered(rng: random.Random, archive: bytes, members: dict[str, bytes]) -> bytes:
    what = rng.randrange(6)
    name = rng.choice(sorted(members))
    if what <= 1:
        return spoil_bytes(rng, archive)
    if what == 2:
        return with_bomb(members, name, rng.choice((50 << 20, 600 << 20, 3 << 30)), rng.random() < 0.5)
    renamed = dict(members)
    content = renamed.pop(name)
    if what == 3:
        return zipped(renamed)
    if what == 4:
        new = rng.choice(("../" + name, "/tmp/" + name, name + "/", name.upper(), "a/" * 500 + name, "\0" + name, ""))
        return zipped(renamed | {new: content})
    target = io.BytesIO(archive)
    with zipfile.ZipFile(target, "a") as twice:
        info = zipfile.ZipInfo(name if rng.random() < 0.5 else "extra")
        info.external_attr = rng.choice((0, 0o120777 << 16, 0o010644 << 16, 0o040755 << 16))  # a link, a pipe, a folder
        twice.writestr(info, rng.choice((content, b"/etc/passwd")))
    return target.getvalue()


def with_bomb(members: dict[str, bytes], name: str, size_bytes: int, honest: bool) -> bytes:
    """An archive whose member `name` goes on with zeros without end; `honest`: it says how many."""
    packed = bomb(size_bytes)
    claimed = min(size_bytes, 2**32 - 2) if honest else len(members[name])
    out, directory = io.BytesIO(), io.BytesIO()
    for each, content in members.items():
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = packed if each == name else packer.compress(content) + packer.flush()
        sizes = struct.pack("<III", zlib.crc32(content), len(data), claimed if each == name else len(content))
        about = struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes
        place, file = out.tell(), each.encode()
        out.write(b"PK\x03\x04" + about + struct.pack("<HH", len(file), 0) + file + data)
        directory.write(b"PK\x01\x02\x14\x00" + about + struct.pack("<HHHHHII", len(file), 0, 0, 0, 0, 0, place) + file)
    at, listed = out.tell(), directory.getvalue()
    count = len(members)
    return out.getvalue() + listed + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(listed), at, 0)


def spoil_npy(rng: random.Random, content: bytes) -> bytes:
    """A NumPy file whose header says something else."""
    length = int.from_bytes(content[8:10], "little")
    header, data = content[10 : 10 + length].decode("latin-1"), content[10 + length :]
    shape = rng.choice(
        ("()", "(0,)", "(-1,)", f"({2**40},)", f"({2**31}, {2**31})", f"({2**62}, 4)", "(1e3,)", "(60, 8, 8, 10**6)",
         "(" + "1," * 64 + ")", "(3, 0, 7)", "None", "(60, 8, 8)", "(480, 8, 1)", "[60]", "(True,)")
    )  # fmt: skip
    kind = rng.choice(
        (
            "|O",
            "<f8",
            ">f4",
            "<U100000000",
            "|S0",
            "|V8",
            "<c16",
            "<M8[s]",
            "|b1",
            "<f2",
            "<i8",
            "x",
            "",
            "[('a', 'O')]",
        )
    )
    start, _, rest = header.partition("'shape':")
    what = rng.randrange(5)
    if what == 0:
        header = f"{start}'shape': {shape}, }}"
    elif what == 1:
        header = f"{{'descr': {kind!r}, {header.partition(',')[2].strip()}"
    elif what == 2:
        header = header.replace("False", "True") + " " * rng.choice((0, 20_000))
    elif what == 3:
        header = rng.choice((rest, "{" * 3000, "__import__('os')", "{'descr': '<f8'}", "", f"{{'shape': {shape}}}"))
    else:
        return spoil_bytes(rng, content)
    encoded = (header.rstrip() + "\n").encode("latin-1")
    claimed = len(encoded) if rng.random() < 0.9 else rng.choice((0, 65_535))
    return content[:8] + (claimed % 65_536).to_bytes(2, "little") + encoded + data


# Commands and files


def json_or_not(rng: random.Random, argv: list[str]) -> list[str]:
    """A command, now and then with --json."""
    return [*argv, "--json"] if rng.random() < 0.5 else argv


def put(rng: random.Random, path: Path, content: bytes) -> None:
    """Write a file, or rarely something else in its place."""
    path.unlink(missing_ok=True)
    what = rng.random()
    if what < 0.97:
        path.write_bytes(content)
    elif what < 0.975:
        os.mkfifo(path)
    elif what < 0.98:
        path.mkdir()
    elif what < 0.985:
        path.symlink_to(path.name)
    elif what < 0.99:
        path.symlink_to("/dev/zero")
    elif what < 0.995:
        path.symlink_to("nowhere")
