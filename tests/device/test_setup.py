"""A device made ready, and what doctor says before and after."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.device import Completed, Device, DeviceInfo, Runtime, RuntimeState, connect, findings, open_agent, setup
from edgenas.device.inspect import _signatures
from edgenas.device.setup import _remedy, platforms, requirements
from edgenas.errors import DeviceError
from tests.board import Board
from tests.device.scripted import PI
from tests.waiting import free_port
from tests.wheelhouse import PIP


def _needs(package: str, **changes: object) -> list[str]:
    device = Device("pi", "ssh://pi", runtime=Runtime(package))  # type: ignore[arg-type]
    return requirements(device, dataclasses.replace(PI, **changes))  # type: ignore[arg-type]


def test_what_a_device_can_take():
    assert _needs("ai-edge-litert") == ["ai-edge-litert", "numpy"]
    assert _needs("tflite-runtime") == ["tflite-runtime>=2.13", "numpy<2"]
    old = {"libc": "glibc 2.31", "python": "3.9.2"}
    assert _needs("tflite-runtime", **old) == ["tflite-runtime==2.13.0", "numpy<2"]
    assert _needs("ai-edge-litert", machine="x86_64", **old) == ["ai-edge-litert", "numpy"]
    assert _needs("tflite-runtime", machine="armv7l", bits=32) == ["tflite-runtime>=2.13", "numpy<2"]


@pytest.mark.parametrize(
    ("package", "changes", "message"),
    [
        ("ai-edge-litert", {"libc": "glibc 2.31"}, r"needs glibc 2\.34.*Use tflite-runtime"),
        ("ai-edge-litert", {"bits": 32}, "only for 64-bit.*Use tflite-runtime"),
        ("ai-edge-litert", {"libc": ""}, "needs glibc; on musl"),
        ("tflite-runtime", {"python": "3.13.1"}, r"only for CPython 3\.8 to 3\.11.*\[runtime\] python = "),
        ("tflite-runtime", {"libc": "glibc 2.31"}, r"only for CPython 3\.8 to 3\.10"),
    ],
)
def test_what_no_wheel_runs_on(package: str, changes: dict[str, object], message: str):
    with pytest.raises(DeviceError, match=message):
        _needs(package, **changes)


def test_platform_tags_fit_the_userland_and_not_the_kernel():
    tags = platforms(dataclasses.replace(PI, bits=32, libc="glibc 2.31"))
    assert tags[0] == "manylinux_2_31_armv7l"
    assert "manylinux2014_armv7l" in tags
    assert platforms(PI)[0] == "manylinux_2_36_aarch64"


def test_a_missing_system_library_is_named_as_a_package():
    said = "OSError: libstdc++.so.6: cannot open shared object file: No such file or directory"
    assert _remedy(said).endswith("sudo apt-get install libstdc++6")
    assert _remedy("ImportError: numpy.core.multiarray failed to import") == ""


WORKS = (RuntimeState("ai-edge-litert", "2.1", None),)
OWN = "/home/pi/.edgenas/venv/bin/python"


class Pip:
    """A device on which pip installs what it `has`, and nothing else is there."""

    home, folder = "/home/pi", "/home/pi/.edgenas"

    def __init__(self, info: DeviceInfo, has: set[str], python: str = OWN) -> None:
        self.info, self.has, self.python = info, has, python
        self.asked: list[list[str]] = []

    def __enter__(self) -> "Pip":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, argv: list[str], timeout_s: float = 30) -> Completed:
        if "install" not in argv:
            return Completed(0, "", "")
        wanted = [word for word in argv[argv.index("install") + 1 :] if word[0] not in "-0123456789"]
        self.asked.append(wanted)
        if not set(wanted) <= self.has:
            return Completed(1, "", f"ERROR: No matching distribution found for {wanted[-1]}")
        if "ai-edge-litert" in wanted:
            self.info = dataclasses.replace(self.info, runtimes=WORKS)
        if "cryptography" in wanted:
            self.info = dataclasses.replace(self.info, cryptography="45.0")
        return Completed(0, "", "")


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[DeviceInfo, str]]:
    """Sets such a device up; what is said of it, and to the user. The host's pip finds nothing either."""
    module = importlib.import_module("edgenas.device.setup")  # the package's own `setup` is the function

    def work(pip: Pip, runtime: Runtime = Runtime()) -> tuple[DeviceInfo, str]:  # noqa: B008
        pip.device = Device("pi", "ssh://pi", runtime=runtime)  # type: ignore[attr-defined]
        steps: list[str] = []
        monkeypatch.setattr(module, "connect", lambda device: pip)
        monkeypatch.setattr(module, "inspect_agent", lambda connection: pip.info)
        monkeypatch.setattr(module, "find_python", lambda connection: (pip.python, True))
        monkeypatch.setattr(module, "_download", lambda *_: Completed(1, "", "ERROR: no network"))
        return setup(pip.device, steps.append), "\n".join(steps)  # type: ignore[attr-defined]

    return work


def test_an_extra_that_cannot_be_installed_costs_only_itself(set_up: Callable[..., tuple[DeviceInfo, str]]):
    pip = Pip(PI, {"ai-edge-litert", "numpy"})
    info, said = set_up(pip)
    assert info.runtime("ai-edge-litert").version == "2.1"
    assert pip.asked == [["ai-edge-litert", "numpy"], ["psutil"], ["cryptography"]], "each apart"
    assert "without cryptography, signatures cannot be checked there, hashes only" in said
    assert "No matching distribution found for cryptography" in said
    assert set_up(Pip(PI, {"ai-edge-litert", "numpy", "cryptography"}))[0].cryptography == "45.0"


def test_a_runtime_that_works_is_left_alone(set_up: Callable[..., tuple[DeviceInfo, str]]):
    works = dataclasses.replace(PI, runtimes=WORKS)
    pip = Pip(works, set())
    info, said = set_up(pip)
    assert (info, pip.asked) == (works, [["cryptography"]]), "it works, so no failure is raised"
    assert "hashes only" in said
    assert set_up(Pip(works, {"cryptography"}))[0].cryptography == "45.0"
    both = dataclasses.replace(works, cryptography="45.0")
    pip = Pip(both, set())
    assert set_up(pip)[0] == both
    assert pip.asked == []


def test_nothing_is_added_to_a_python_of_the_user_s(set_up: Callable[..., tuple[DeviceInfo, str]]):
    pip = Pip(dataclasses.replace(PI, runtimes=WORKS), {"cryptography"}, "/opt/tflite/bin/python")
    info, said = set_up(pip, Runtime(python="/opt/tflite/bin/python"))
    assert (info.cryptography, pip.asked) == (None, [])
    assert "To install it there: /opt/tflite/bin/python -m pip install cryptography" in said
    own = Pip(dataclasses.replace(PI, runtimes=WORKS), {"cryptography"})
    assert set_up(own, Runtime(python=OWN))[0].cryptography == "45.0", "named, but ours"


def test_doctor_says_whether_signatures_can_be_checked():
    device = Device("pi", "ssh://pi")
    found = _signatures(device, PI)
    assert (found.level, found.remedy) == ("warning", "edgenas device setup pi")
    assert "hashes only" in found.what
    assert _signatures(device, dataclasses.replace(PI, cryptography="45.0")).level == "ok"


def test_a_fingerprint_is_of_the_kind_and_not_of_the_name():
    assert PI.fingerprint == dataclasses.replace(PI, hostname="other", memory_total_kb=3_999_000).fingerprint
    for change in ({"cpu": "Cortex-A53"}, {"cores": 2}, {"memory_total_kb": 2_000_000}, {"os": "Debian 13"}):
        assert PI.fingerprint != dataclasses.replace(PI, **change).fingerprint  # type: ignore[arg-type]


def test_doctor_names_what_keeps_it_out(board: Board, tmp_path: Path):
    def problems(device: Device) -> str:
        return " ".join(f"{found.what} {found.remedy}" for found in findings(device) if found.level == "problem")

    folder = str(tmp_path / "work")
    assert "cannot be reached" in problems(board.device(port=free_port()))
    assert "edgenas device trust board" in problems(dataclasses.replace(board.device(), host_key=None))
    assert "not installed edgenas device setup board" in problems(board.device(folder=folder))
    assert problems(Device("here", "local:", folder=folder)) == ""


def test_setup_then_measure_then_doctor(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch):
    """With pip and wheels as they are: by the board's own pip, and sent from here by the host's."""
    for name, value in PIP.items():
        monkeypatch.setenv(name, value)
    with Board(tmp_path / "board", environment=PIP) as board:
        device = board.device(folder=str(tmp_path / "work"))
        steps: list[str] = []
        info = setup(device, steps.append)
        assert info.runtime("ai-edge-litert").version is not None
        assert (info.numpy or "").startswith("2.") and info.cryptography is not None
        assert not any("sending" in step for step in steps)
        steps.clear()
        setup(device, steps.append)
        assert len(steps) == 1, "nothing is installed twice"
        with connect(device) as connection, open_agent(connection) as agent:
            paths = []
            for model in sorted(models.glob("*.tflite")):
                paths.append(f"{connection.folder}/{model.name}")
                connection.put(model, paths[-1])
            answer = agent.call("measure", models=paths, reference=paths[0], visits=5)
            assert [len(model["visits_us"]) for model in answer["models"]] == [5] * 3
            assert not [found for found in findings(device) if found.level == "problem"]
            python = f"{connection.folder}/venv/bin/python"
            assert connection.run([python, "-m", "pip", "uninstall", "-q", "-y", "cryptography"]).returncode == 0
            info = setup(device, steps.append, offline=True)
            assert info.cryptography is not None
            assert any("sending cryptography-" in step for step in steps)
            assert not Path(connection.folder, "wheels").exists(), "what was sent is removed"
