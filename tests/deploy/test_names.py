"""Hostile names, labels and paths over SSH: nothing of them is ever executed, and nothing leaves its folder.

Shells and files are real; the agent, which has no shell, works in this process."""

import contextlib
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from edgenas.deploy import Bundle, ship
from edgenas.device import Connection, Device, connect
from edgenas.errors import EdgeNASError, InputError
from tests.board import Board
from tests.deploy.conftest import on_board
from tests.deploy.inside import Inside

# Whatever is executed touches this file, which is in every shell's working folder.
_CANARY = "edgenas-canary"
_LOCK = "edgenas-device.lock"  # one for the device, whatever the work folder
_PIECES = [
    "$(touch edgenas-canary)", "`touch edgenas-canary`", "; touch edgenas-canary;", "' ", '" ', "\n", "..", "-rf", "--",
    "/", "~", "*", "é", "漢", "\\", "$HOME", "&", "|", "\t", "#", "!", "%", "{a,b}", "\u2028", "a",
]  # fmt: skip
hostile = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=5).map("".join)


# One connection for all examples: each of them leaves it as it was.
pytestmark = pytest.mark.usefixtures("inside")
examples = functools.partial(settings, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def connection(board: Board) -> Iterator[Connection]:
    with connect(on_board(board, board.folder / "work")) as connection:
        connection.run(["true"])  # it is opened by no test, and left open by none
        yield connection


def touched(board: Board) -> list[Path]:
    places = [board.home, board.folder, Path.cwd()]
    return [place / _CANARY for place in places if (place / _CANARY).exists()]


@contextlib.contextmanager
def nothing_outside(work: Path) -> Iterator[None]:
    """Whatever the block does: around a device's folder nothing comes and nothing goes."""
    before = around(work)
    yield
    assert around(work) == before


def around(work: Path) -> set[Path]:
    """All below the folder that `work` is in but itself: the server's home and temporary files are there. And what lies
    beside the roots that a path could be taken to begin at."""
    near = {path for path in work.parent.rglob("*") if path != work and work not in path.parents}
    roots = {path for root in (Path("/"), Path.cwd()) for path in root.iterdir()}
    return {path for path in near | roots if path.name not in (_LOCK, ".hypothesis", ".edgenas")}


@examples(max_examples=40)
@given(words=st.lists(hostile, min_size=1, max_size=3))
@example(words=["$(touch edgenas-canary)"])
@example(words=["-n", "a\nb"])
def test_arguments_arrive_as_they_are(board: Board, connection: Connection, words: list[str]) -> None:
    done = connection.run(["printf", "%s\\0", *words])
    assert done.stdout.split("\0")[:-1] == words
    assert touched(board) == []


@examples(max_examples=40)
@given(name=hostile.filter(lambda name: "/" not in name and name not in (".", "..")), resume=st.booleans())
@example(name="-rf", resume=True)
@example(name="$(touch edgenas-canary)\n'", resume=False)
def test_files_of_any_name_go_and_come(
    board: Board, connection: Connection, tmp_path_factory: pytest.TempPathFactory, name: str, resume: bool
) -> None:
    folder = tmp_path_factory.mktemp("files")
    assume(len(name.encode()) < 200)
    local = folder / "local"
    local.write_text(name)
    remote = f"{connection.folder}/any/{name}"
    (folder / "back").touch()
    with nothing_outside(Path(connection.folder)):
        connection.put(local, remote, resume=resume)
        assert Path(remote).read_text() == name
        connection.get(remote, folder / "back")
    assert (folder / "back").read_text() == name
    assert [path.name for path in Path(connection.folder, "any").iterdir()] == [name]
    assert touched(board) == []
    shutil.rmtree(Path(connection.folder, "any"))


@examples(max_examples=30)
@given(name=hostile)
@example(name="..")
@example(name="a/../../b")
def test_no_hostile_name_of_a_model_reaches_the_device(
    board: Board, inside: Inside, bundle: Bundle, connection: Connection, name: str
) -> None:
    assume(not (name.isascii() and name.replace("-", "a").replace(".", "a").isalnum() and name[0].isalnum()))
    with nothing_outside(Path(connection.folder)):
        with pytest.raises(InputError, match="is no name for a model"):
            ship(bundle, connection.device, name)
        with inside.open(connection) as agent:
            for op, params in (
                ("prepare", {"name": name, "release": 1, "files": {}}),
                ("stage", {"name": name, "release": 1, "files": {}}),
                ("stage", {"name": "net", "release": 1, "files": {name: "0" * 64}}),
                ("rollback", {"name": name}),
                ("heard", {"name": name, "release": 1}),
                ("verify", {"name": name}),
                ("discard", {"name": name, "files": [name]}),
            ):
                with pytest.raises(InputError, match="is no name for"):
                    agent.call(op, **params)
            with pytest.raises(EdgeNASError):
                agent.call("activate", name="net", release=1, folder=name, record={})
            agent.call("discard", name="net", files=[name])
    assert touched(board) == []
    assert not list(Path(connection.folder).glob("models/*/releases/*"))


def _is_a_folder(name: str) -> bool:
    try:
        Device("pi", "ssh://h", folder=name)
    except InputError:
        return False
    return True


@examples(max_examples=15)
@given(name=hostile.filter(_is_a_folder), absolute=st.booleans())
@example(name="$(touch edgenas-canary)'", absolute=False)
@example(name="-rf", absolute=True)
@example(name="a b/; touch edgenas-canary;/`touch edgenas-canary`", absolute=True)
@example(name="~/x", absolute=False)
def test_a_hostile_work_folder_is_one_folder(
    board: Board, inside: Inside, tmp_path_factory: pytest.TempPathFactory, name: str, absolute: bool
) -> None:
    """What is sent and what the agent does stays below it; relative, it is below the home on the device."""
    local = tmp_path_factory.mktemp("local") / "source"
    local.write_text(name)
    root = Path(tempfile.mkdtemp(dir=board.folder)) if absolute else board.home
    ours = set(root.iterdir())
    folder = f"{root}/{name}" if absolute else name.lstrip("/")
    device = dataclasses.replace(on_board(board, Path("x")), folder=folder)
    with connect(device) as connection:
        work = Path(connection.folder)
        assert work.is_relative_to(root)
        before = around(root)
        connection.put(local, f"{connection.folder}/blobs/sent", resume=True)
        connection.put(local, f"{connection.folder}/whole")
        assert (work / "blobs" / "sent").read_text() == (work / "whole").read_text() == name
        with inside.open(connection) as agent:
            assert agent.call("deployed") == []
            agent.call("discard", name="net", files=[])
        assert around(root) == before
        if work != root:
            first = root / work.relative_to(root).parts[0]
            assert set(root.iterdir()) - ours == {first}
            shutil.rmtree(first)
    if absolute:
        shutil.rmtree(root)
    assert touched(board) == []


@examples(max_examples=5)
@given(labels=st.lists(hostile.map(lambda text: text.replace("\n", " ")), min_size=10, max_size=10))
def test_hostile_labels_arrive_as_they_are(
    board: Board, bundle: Bundle, rewritten: Callable[..., Bundle], connection: Connection,
    tmp_path_factory: pytest.TempPathFactory, labels: list[str],
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("bundle")
    newer = rewritten(bundle, folder)
    made = Bundle.write(folder / "labels", newer.manifest, newer.model_path.read_bytes(), labels, newer.samples)
    assert list(made.labels) == labels
    with nothing_outside(Path(connection.folder)):
        ship(made, connection.device, "labels")
    arrived = Path(connection.folder, "models/labels/current/labels.txt").read_text(encoding="utf-8")
    assert arrived.split("\n")[:-1] == labels
    assert touched(board) == []
