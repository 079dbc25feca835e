"""Hostile names, labels and paths: nothing of them is ever executed, and nothing leaves its folder."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from edgenas.deploy import Bundle, ship
from edgenas.device import Connection, connect
from edgenas.errors import EdgeNASError, InputError
from tests.board import Board
from tests.deploy.conftest import on_board

# Whatever is executed touches this file, which is in every shell's working folder.
_CANARY = "edgenas-canary"
_PIECES = [
    "$(touch edgenas-canary)", "`touch edgenas-canary`", "; touch edgenas-canary;", "' ", '" ', "\n", "..", "-rf", "--",
    "/", "~", "*", "é", "漢", "\\", "$HOME", "&", "|", "\t", "#", "!", "%", "{a,b}", "\u2028", "a",
]  # fmt: skip
hostile = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=5).map("".join)


@pytest.fixture(scope="module")
def connection(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with connect(on_board(board, tmp_path_factory.mktemp("work"))) as connection:
        yield connection


def touched(board: Board) -> list[Path]:
    places = [board.home, board.folder, Path.cwd()]
    return [place / _CANARY for place in places if (place / _CANARY).exists()]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(hostile, min_size=1, max_size=3))
@example(words=["$(touch edgenas-canary)"])
@example(words=["-n", "a\nb"])
def test_arguments_arrive_as_they_are(board: Board, connection: Connection, words: list[str]) -> None:
    done = connection.run(["printf", "%s\\0", *words])
    assert done.stdout.split("\0")[:-1] == words
    assert touched(board) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    connection.put(local, remote, resume=resume)
    assert Path(remote).read_text() == name
    connection.get(remote, folder / "back")
    assert (folder / "back").read_text() == name
    assert [path.name for path in Path(connection.folder, "any").iterdir()] == [name]
    assert touched(board) == []
    shutil.rmtree(Path(connection.folder, "any"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=hostile)
@example(name="..")
@example(name="a/../../b")
def test_no_hostile_name_of_a_model_reaches_the_device(
    board: Board, bundle: Bundle, connection: Connection, name: str
) -> None:
    assume(not (name.isascii() and name.replace("-", "a").replace(".", "a").isalnum() and name[0].isalnum()))
    with pytest.raises(InputError, match="is no name for a model"):
        ship(bundle, connection.device, name)
    with connection.open_agent() as agent:
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


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(hostile.map(lambda text: text.replace("\n", " ")), min_size=10, max_size=10))
def test_hostile_labels_arrive_as_they_are(
    board: Board, bundle: Bundle, rewritten: Callable[..., Bundle], connection: Connection,
    tmp_path_factory: pytest.TempPathFactory, labels: list[str],
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("bundle")
    newer = rewritten(bundle, folder)
    made = Bundle.write(folder / "labels", newer.manifest, newer.model_path.read_bytes(), labels, newer.samples)
    assert list(made.labels) == labels
    ship(made, connection.device, "labels")
    arrived = Path(connection.folder, "models/labels/current/labels.txt").read_text(encoding="utf-8")
    assert arrived.split("\n")[:-1] == labels
    assert touched(board) == []
