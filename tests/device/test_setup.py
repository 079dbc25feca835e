"""A device made ready, and what doctor says before and after."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.device import (
    Completed,
    Device,
    DeviceInfo,
    Runtime,
    RuntimeState,
    connect,
    findings,
    open_agent,
    setup,
)
from edgenas.device.inspect import _signatures
from edgenas.device.remedies import remedy_for
from edgenas.device.setup import platforms, requirements
from edgenas.errors import DeviceError
from tests.board import Board, on_virtual_machine
from tests.device.scripted import PI
from tests.waiting import free_port
from tests.wheelhouse import PIP, WHEELS


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


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("OSError: libstdc++.so.6: cannot open shared object file: No such file or directory", "install libstdc++6"),
        ("ImportError: /home/pi/.edgenas/venv/lib/x.so.1: failed to map segment from shared object", "noexec"),
        ("error: externally-managed-environment\n\nx This environment is", "Leave `python` out of the device's file"),
        ("OSError: [Errno 30] Read-only file system: '/home/pi/.edgenas'", "is mounted read-only"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "Make room there"),
        ("/usr/bin/python3: No module named pip", "python3-pip"),
        ("/home/pi/.edgenas/venv/bin/python: No module named ensurepip", "sudo apt-get install python3-venv"),
    ],
)
def test_what_a_device_says_names_the_remedy(said: str, remedy: str):
    assert remedy in remedy_for(said)


@pytest.mark.parametrize(
    "said",
    [
        "ImportError: numpy.core.multiarray failed to import",
        "Command '['/x/venv/bin/python', '-m', 'ensurepip']' returned non-zero exit status 1",
        "ERROR: No matching distribution found for ai-edge-litert",
        "",
    ],
)
def test_what_is_not_known_has_no_remedy(said: str):
    assert remedy_for(said) == ""


WORKS = (RuntimeState("ai-edge-litert", "2.1", None),)
OWN = "/home/pi/.edgenas/venv/bin/python"


class Pip:
    """A device on which pip installs what it `has`, and nothing else is there."""

    home, folder = "/home/pi", "/home/pi/.edgenas"

    def __init__(self, info: DeviceInfo, has: set[str], python: str = OWN, **fails: Completed) -> None:
        self.info, self.has, self.python = info, has, python
        self.fails = fails  # what comes of a command with that word in it
        self.asked: list[list[str]] = []

    def __enter__(self) -> "Pip":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, argv: list[str], timeout_s: float = 30) -> Completed:
        for word, done in self.fails.items():
            if word in argv:
                return done
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

    def work(
        pip: Pip,
        runtime: Runtime = Runtime(),  # noqa: B008
        steps: list[str] | None = None,
        download: Completed = Completed(1, "", "ERROR: no network"),  # noqa: B008
    ) -> tuple[DeviceInfo, str]:
        pip.device = Device("pi", "ssh://pi", runtime=runtime)  # type: ignore[attr-defined]
        steps = [] if steps is None else steps
        monkeypatch.setattr(module, "connect", lambda device: pip)
        monkeypatch.setattr(module, "inspect_agent", lambda connection: pip.info)
        monkeypatch.setattr(module, "find_python", lambda connection: (pip.python, True))
        monkeypatch.setattr(module, "_download", lambda *_: download)
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


FAILS = {
    "a read-only disk": (
        {"sh": Completed(1, "", "mkdir: cannot create directory '/home/pi/.edgenas': Read-only file system")}, None,
        r"no environment can be made in /home/pi/\.edgenas: mkdir: .*Read-only file system\. Its disk is mounted "
        r"read-only.*name another folder",
    ),
    "a home that is noexec": (
        {"sh": Completed(126, "", "sh: 1: ./.edgenas-runs: Permission denied")}, None,
        r"\.edgenas-runs: Permission denied\. No program may run where that lies \(it is mounted noexec\): name",
    ),
    "no room for pip": (
        {"pip": Completed(1, "", "No module named pip"),
         "ensurepip": Completed(1, "", "OSError: [Errno 28] No space left on device")}, None,
        r"-m ensurepip failed: OSError: \[Errno 28\] No space left on device\. Make room there",
    ),
    "no python3-venv": (
        {"pip": Completed(1, "", "No module named pip"),
         "ensurepip": Completed(1, "", f"{OWN}: No module named ensurepip")}, None,
        r"-m ensurepip failed: .*No module named ensurepip\. Install it there: sudo apt-get install python3-venv",
    ),
    "PEP 668": (
        {"install": Completed(1, "", "error: externally-managed-environment\n\nx This environment ...\nhint: PEP 668")},
        "/usr/bin/python3",
        r"could not be installed\. Its own pip said: error: externally-managed-environment\. The device's system",
    ),
    "no pip": (
        {"install": Completed(1, "", "/usr/bin/python3: No module named pip")}, "/usr/bin/python3",
        r"Its own pip said: /usr/bin/python3: No module named pip\. Install pip for that Python",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILS)
def test_the_true_cause_is_named_in_the_device_s_own_words(set_up: Callable[..., tuple[DeviceInfo, str]], case: str):
    fails, python, words = FAILS[case]
    steps: list[str] = []
    with pytest.raises(DeviceError, match=words) as caught:
        set_up(Pip(PI, set(), python or OWN, **fails), Runtime(python=python), steps)
    assert "\n" not in str(caught.value) and "sending wheels" not in " ".join(steps), "they would meet the same"


def test_what_the_device_s_own_pip_said_is_kept_where_wheels_fail_too(
    set_up: Callable[..., tuple[DeviceInfo, str]], monkeypatch: pytest.MonkeyPatch
):
    pip = Pip(PI, set())
    monkeypatch.setattr(pip, "put", lambda *_: None, raising=False)
    with pytest.raises(
        DeviceError, match=r"the wheels sent could not be installed: .* Its own pip said: ERROR: No mat"
    ):
        set_up(pip, download=Completed(0, "", ""))


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


# What pip may be told for others: each of these keeps packages from an environment, or puts other versions into it.
HOSTILE_PIP = {"PIP_TARGET": "/nowhere", "PIP_USER": "1", "PIP_CONSTRAINT": "/nowhere.txt", "PIP_NO_BINARY": ":all:",
               "PIP_REQUIRE_HASHES": "1", "PIP_DRY_RUN": "1", "PIP_NO_DEPS": "1"}  # fmt: skip


def hostile_python(folder: Path) -> Path:
    """A PYTHONPATH that holds other packages of the same names."""
    for name in ("numpy", "pip", "ensurepip", "venv", "ai_edge_litert"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('the one on PYTHONPATH')\n")
    return folder


def test_setup_then_measure_then_doctor(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch):
    """With pip and wheels as they are: by the board's own pip, and sent from here by the host's.

    Neither takes from the user's settings more than where packages come from.
    """
    for name, value in (PIP | HOSTILE_PIP).items():
        monkeypatch.setenv(name, value)
    elsewhere = f"{hostile_python(tmp_path / 'elsewhere')}:{Path(__file__).parents[1] / 'virtual'}"
    with Board(tmp_path / "board", environment=HOSTILE_PIP | {"PYTHONPATH": elsewhere}) as board:
        settings = board.home / ".config" / "pip" / "pip.conf"
        settings.parent.mkdir(parents=True)
        settings.write_text(f"[global]\nno-index = true\nprefix = /nowhere\n[install]\nfind-links =\n  {WHEELS}\n")
        device = board.device(folder=str(tmp_path / "work"))
        steps: list[str] = []
        info = setup(device, steps.append)
        assert info.runtime("ai-edge-litert").version is not None
        assert (info.numpy or "").startswith("2.") and info.cryptography is not None
        assert not any("sending" in step for step in steps)
        steps.clear()
        setup(device, steps.append)
        assert len(steps) == 1, "nothing is installed twice"
        with connect(device) as connection:
            on_virtual_machine(Path(connection.folder))
        with connect(device) as connection, open_agent(connection) as agent:
            paths = []
            for model in sorted(models.glob("*.tflite")):
                paths.append(f"{connection.folder}/{model.name}")
                connection.put(model, paths[-1])
            answer = agent.call("measure", models=paths, reference=paths[0], visits=5)
            assert [len(model["visits_us"]) for model in answer["models"]] == [5] * 3
            assert not [found for found in findings(device) if found.level == "problem"]
            python = f"{connection.folder}/venv/bin/python"
            assert connection.run([python, "-I", "-m", "pip", "uninstall", "-q", "-y", "cryptography"]).returncode == 0
            info = setup(device, steps.append, offline=True)
            assert info.cryptography is not None
            assert any("sending cryptography-" in step for step in steps)
            assert not Path(connection.folder, "wheels").exists(), "what was sent is removed"
