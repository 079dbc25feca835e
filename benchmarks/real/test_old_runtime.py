"""The main job on a board with tflite-runtime, which needs a NumPy of before 2.0: set up from the package index."""

from collections.abc import Callable
from pathlib import Path

from edgenas.device import fingerprint
from tests.board import Board
from tests.terminal import Terminal

SPACE = ("--space", "tiny", "--input", "28x28x1", "--precision", "int8", "--threads", "1")


def test_tflite_runtime_with_an_old_numpy(
    make_board: Callable[..., Board], tmp_path: Path, figures: Callable[[str, object], None]
) -> None:
    board, user = make_board(), Terminal(tmp_path)
    url = f"ssh://{board.user}@127.0.0.1:{board.port}"
    user.gets("device", "add", "old", url, "--identity-file", str(board.user_key), "--runtime", "tflite-runtime")
    user.gets("device", "trust", "old", "--fingerprint", fingerprint(board.host_key_line))
    figures("runtime", user.gets("device", "setup", "old")["version"])
    assert not [finding for finding in user.gets("doctor", "old")["findings"] if finding["level"] == "problem"]
    profiled = user.gets("profile", "old", *SPACE, "--quick")
    figures("profile, s", profiled["wall_s"])
    figures("certificate", profiled["certificate"])
    assert profiled["certificate"]["spearman"] > 0.8
    words = ("search", "--study", "old", "--data", "digits", "--policy", "fit", "--device", "old", *SPACE[:6])
    assert user.gets(*words, "--trials", "2", "--final-steps", "400")["trials"]["complete"] == 2
    trained = user.gets("train", "old", "--pick", "best")
    shipped = user.gets("ship", trained["bundle"], "old", "--as", "digits")
    assert shipped["active"] == shipped["release"]
    figures("latency, ms", shipped["latency_ms"])
    figures("predicted, ms", shipped["predicted_ms"])
