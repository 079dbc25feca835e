"""The kinds of inputs: each makes a hostile input in the current folder, a copy of the seeds, and says what to run."""

import contextlib
import json
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fuzzing import mutations, seeds
from benchmarks.fuzzing.mutations import TEXTS, json_or_not, put, spoil, spoil_bytes, spoil_lines, to_json
from benchmarks.fuzzing.pictures import folders, images

Argv = list[str]
Kind = Callable[[random.Random], list[Argv]]


def tables(rng: random.Random) -> list[Argv]:
    """Latency tables: ours, and those of others that are imported."""
    if rng.random() < 0.35:
        name = rng.choice(("theirs.yaml", "theirs.csv"))
        content = spoil_lines(rng, Path(name).read_text())
        put(rng, Path(name), content)
        return [json_or_not(rng, ["table", "import", name, "--device", "note", "--precision", "float32"])]
    path = Path(f"latency_tables/{seeds.TABLE}.json")
    content = _spoilt_json(rng, path.read_bytes())
    other = Path("latency_tables/other.json")
    put(rng, other, content)
    show = ["table", "show", "other", "--no-picture"]
    return [rng.choice((json_or_not(rng, show), ["table", "diff", "other", seeds.TABLE], ["pareto", seeds.STUDY],
                        ["table", "show", "other", "--layer", "dense_n10@64"], ["table", "list"]))]  # fmt: skip


def _summed(content: dict[str, Any]) -> bytes | None:
    """Plain data as tables and manifests are written, with the checksum that it should have: what is behind that is
    reached. None: it has none."""
    import edgenas.files

    bare = {key: each for key, each in content.items() if key != "checksum"}
    try:
        checksum = edgenas.files.sha256(edgenas.files.canonical_json(bare).encode())
        return (json.dumps(bare | {"checksum": checksum}, indent=1, allow_nan=False) + "\n").encode()
    except (ValueError, TypeError, RecursionError):
        return None


def _spoilt_json(rng: random.Random, original: bytes) -> bytes:
    """JSON with a checksum, spoiled; mostly with the right one."""
    what = rng.random()
    if what < 0.15:
        return spoil_bytes(rng, original)
    content = spoil(rng, json.loads(original))
    summed = _summed(content) if what < 0.85 and isinstance(content, dict) else None
    return to_json(rng, content) if summed is None else summed


def bundles(rng: random.Random) -> list[Argv]:
    """Bundles as folders and as one file, their hashes right now and then in spite of it."""
    run = rng.choice((["predict", "B", "images/grey.png"], ["sign", "B"], ["export", "B", "--format", "android", "out"],
                      ["export", "B", "--format", "c-array", "out"]))  # fmt: skip
    files = {path.name: path.read_bytes() for path in sorted(Path("bundle").iterdir())}
    name = rng.choice(sorted(files))
    if name == "manifest.json":
        files[name] = _spoilt_json(rng, files[name])
    elif name == "samples.npz" and rng.random() < 0.7:
        files[name] = _npz(rng, Path("bundle/samples.npz"))
    elif name == "labels.txt":
        files[name] = spoil_lines(rng, files[name].decode())
    else:
        files[name] = spoil_bytes(rng, files[name])
    if name != "manifest.json" and rng.random() < 0.85:
        files["manifest.json"] = _hashed(files)
    if rng.random() < 0.4:
        Path("B.edgenas").write_bytes(mutations.zipped(files, rng if rng.random() < 0.6 else None))
        return [[word.replace("B", "B.edgenas") if word == "B" else word for word in run]]
    Path("B").mkdir()
    for each, content in files.items():
        put(rng, Path("B", each), content)
    return [run]


def _hashed(files: dict[str, bytes]) -> bytes:
    """The manifest with the hashes that the files have now."""
    import edgenas.files

    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {name: edgenas.files.sha256(files.get(name, b"")) for name in manifest["files"]}
    if "model_bytes" in manifest:
        manifest["model_bytes"] = len(files["model.tflite"])
    return _summed(manifest) or b""


def _npz(rng: random.Random, path: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    if rng.random() < 0.6:
        members[name] = mutations.spoil_npy(rng, members[name])
        return mutations.zipped(members)
    return mutations.zipped(members, rng)


def npz(rng: random.Random) -> list[Argv]:
    """Arrays as data."""
    put(rng, Path("data.npz"), _npz(rng, Path("data.npz")))
    shape = rng.choice(("8x8x1", "8x8x1", "16x16x3"))
    return [json_or_not(rng, ["data", "check", "data.npz", "--input", shape, "--no-pace", "--sheet", "s.png"])]


def toml(rng: random.Random) -> list[Argv]:
    """Files of devices and of studies."""
    night = seeds.STUDY
    path, runs = rng.choice(
        (
            ("devices/board.toml", [["device", "show", "board"], ["device", "list"], ["key", "list", "board"]]),
            (f"studies/{night}/study.toml", [["study", "show", night], ["study", "list"], ["pareto", night],
                                             ["train", night, "--pick", "x"]]),
        )
    )  # fmt: skip
    put(rng, Path(path), spoil_lines(rng, Path(path).read_text()))
    return [json_or_not(rng, rng.choice(runs))]


def databases(rng: random.Random) -> list[Argv]:
    """A study's database and its ledger."""
    folder = Path("studies", seeds.STUDY)
    database = folder / "study.db"
    what = rng.random()
    if what < 0.35:
        put(rng, database, spoil_bytes(rng, database.read_bytes()))
    elif what < 0.8:
        _spoil_rows(rng, database)
    else:
        ledger = folder / "ledger.jsonl"
        lines = ledger.read_text().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = to_json(rng, spoil(rng, json.loads(lines[at])), None).decode("utf-8", errors="replace")
        put(rng, ledger, "\n".join(lines).encode() if rng.random() < 0.5 else spoil_lines(rng, ledger.read_text()))
    runs = (["study", "show", seeds.STUDY], ["study", "list"], ["pareto", seeds.STUDY], ["pareto", seeds.STUDY])
    return [["report", seeds.STUDY] if rng.random() < 0.05 else json_or_not(rng, rng.choice(runs))]


def _spoil_rows(rng: random.Random, path: Path) -> None:
    with sqlite3.connect(path) as database:
        names = [
            name for (name,) in database.execute("select name from sqlite_master where type = 'table' order by name")
        ]
        filled = [name for name in names if database.execute(f"select count(*) from {name}").fetchone()[0]]
        for _ in range(rng.choice((1, 1, 3))):
            table = rng.choice(filled)
            columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
            column, new = rng.choice(columns), mutations.value(rng)
            chosen = f"rowid = (select rowid from {table} order by rowid limit 1 offset {rng.randrange(3)})"
            if rng.random() < 0.5:
                old = database.execute(f"select {column} from {table} where {chosen}").fetchall()
                new = _near_text(rng, old[0][0] if old else None)
            if not isinstance(new, str | bytes | float | type(None)) and not (type(new) is int and abs(new) < 2**63):
                new = json.dumps(new)
            new = new.encode("utf-8", "replace").decode() if isinstance(new, str) else new
            change = f"update or ignore {table} set {column} = ?"
            statement = rng.choice(
                (change, f"{change} where {chosen}", f"delete from {table} where {chosen} and ? is ?")
            )
            given = (new, new) if statement.count("?") == 2 else (new,)
            with contextlib.suppress(sqlite3.Error):  # what SQLite itself does not store
                database.execute(statement, given)
        if rng.random() < 0.1:
            database.execute(f"drop table {rng.choice(names)}")
    database.close()


def _near_text(rng: random.Random, old: Any) -> Any:
    if isinstance(old, str):
        try:
            return json.dumps(spoil(rng, json.loads(old)))
        except ValueError:
            return spoil_lines(rng, old).decode("utf-8", errors="replace")
    return -old if isinstance(old, int | float) else b"\0" if old is None else old


def arguments(rng: random.Random) -> list[Argv]:
    """Commands with options and values that nobody would type."""
    import click

    from edgenas.cli.main import cli

    command: click.Command = cli
    argv: Argv = []
    while isinstance(command, click.Group):
        names = sorted(set(command.commands) - {"quickstart", "search", "doctor"})
        name = rng.choice(names)
        argv.append(name)
        command = command.commands[name]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            if rng.random() < (0.9 if parameter.required else 0.25):
                argv.append(rng.choice(parameter.opts))
                argv += [] if parameter.is_flag else [_word(rng, parameter)]
        else:
            argv += [
                _word(rng, parameter) for _ in range(rng.choice((1, 1, 1, 1, 0, 2, 3) if parameter.nargs < 0 else (1,)))
            ]
    if argv[0] == "profile":
        argv.append("--dry-run")
    elif argv[:2] == ["data", "check"]:
        argv.append("--no-pace")  # which trains for a while
    elif argv[0] == "train":
        argv = [word if word != seeds.STUDY else f"{word}s" for word in argv]
    if rng.random() < 0.1:
        argv.insert(rng.randrange(len(argv) + 1), rng.choice(TEXTS))
    return [[word.replace("\0", "?") for word in argv if len(word) < 131_000]]


_VALID = (
    "bundle", "packed.edgenas", seeds.STUDY, seeds.TABLE, "board", "int8.tflite", "images/grey.png", "data.npz",
    "8x8x1", "float32", "int8", "theirs.csv", "default", "out", "knee", "best", "android", "c-array", "0.5", "3",
    "images",
)  # fmt: skip
# Not among them: `local` would be measured, which is no mistake and takes its time; `fashion-mnist` be downloaded.


def _word(rng: random.Random, parameter: Any) -> str:
    choices = list(getattr(parameter.type, "choices", ()))
    what = rng.random()
    if choices and what < 0.7:
        return str(rng.choice(choices))
    if what < 0.6:
        return rng.choice(_VALID)
    word = str(mutations.value(rng)) if what < 0.8 else rng.choice(TEXTS)
    # What a shell hands over: bytes that are no UTF-8 come as halves of characters.
    return (
        word.encode("utf-8", "replace").decode()
        if rng.random() < 0.8
        else word.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    )


def answers(rng: random.Random) -> list[Argv]:
    """An agent on a device: a Python that is none, and says what was spoiled before."""
    argv = rng.choice(sorted(seeds.ANSWERS))
    work = Path("work").absolute()
    said = [{"id": number + 1, "ok": True, "result": answer} for number, answer in enumerate(seeds.ANSWERS[argv])]
    lines: list[bytes] = []
    spoilt = rng.randrange(len(said))
    for number, answer in enumerate(said):
        if number == spoilt and rng.random() < 0.2:
            kind = (
                mutations.value(rng)
                if rng.random() < 0.5
                else rng.choice(("no_space", "bad_name", "no_runtime", "failed"))
            )
            answer = {"id": number + 1, "ok": False, "error": {"kind": kind, "message": mutations.value(rng)}}
        elif number == spoilt:
            answer = spoil(rng, answer)
        text = to_json(rng, answer, None) if number == spoilt else json.dumps(answer).encode()
        if rng.random() < 0.2:
            told = {"id": number + 1, "event": "progress", "row": mutations.value(rng), "rows": mutations.value(rng)}
            line = to_json(rng, told, None)
            lines += [line] * (rng.choice((1, 3, 2000)) if len(line) < 1000 else 1)
        lines.append(text.replace(b"WORK", os.fsencode(work)))
    if rng.random() < 0.05:
        lines.insert(spoilt, b"x" * rng.choice((70_000, 5 << 20, 60 << 20)))
    Path("answers").write_bytes(b"\n".join(lines) + (b"\n" if rng.random() < 0.95 else b""))
    complains = rng.choice(
        ("", "", 'echo "out of luck" >&2', "head -c 3000000 /dev/zero >&2", "head -c 100 /dev/urandom >&2")
    )
    looks = rng.choice(
        ("echo -", "echo -", f"echo {'0' * 64}", "echo; echo; echo x", "head -c 200000 /dev/zero", "exit 1")
    )
    begins = looks if rng.random() < 0.1 else "echo -"
    python = Path("python").absolute()
    # It says all of its answers, and ends when it was asked as many questions.
    says = f'{complains}\ncat "{Path("answers").absolute()}"\nexec head -n {len(said)} > /dev/null'
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && {{ {begins}; exit 0; }}\n{says}\n')
    python.chmod(0o755)
    Path("devices/board.toml").write_text(f'url = "local:"\nfolder = "{work}"\n\n[runtime]\npython = "{python}"\n')
    return [list(argv)]


def tflite(rng: random.Random) -> list[Argv]:
    """Models that an agent's child runs; see `fuzz.run_model`."""
    path = rng.choice((Path("int8.tflite"), Path("float32.tflite"), Path("bundle/model.tflite")))
    data = bytearray(path.read_bytes())
    if rng.random() < 0.7:  # sizes, offsets and types are four bytes long, or one
        for _ in range(rng.choice((1, 1, 2, 5))):
            mutations.spoil_number(rng, data, rng.randrange(len(data) // 4) * 4)
    else:
        data = bytearray(spoil_bytes(rng, bytes(data)))
    Path("odd.tflite").write_bytes(data)
    return [["MODEL", "odd.tflite"]]


KINDS: dict[str, Kind] = {
    kind.__name__: kind for kind in (tables, bundles, npz, toml, databases, arguments, answers, images, folders, tflite)
}
