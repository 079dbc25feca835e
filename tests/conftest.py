"""Settings of all tests: a virtual machine for every agent, no network, no waiting, no process left behind."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

# Before anything imports TensorFlow: no banner, no GPU, and the only backend that the converter knows.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"
# Every Python that a test starts runs tests/virtual/sitecustomize.py first, and imports the EdgeNAS of this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (Path(__file__).parent / "virtual", Path(__file__).parents[1])))
os.environ["EDGENAS_TESTS_LOOPBACK_ONLY"] = "1"

from edgenas.device.agent import machine
from tests.adb.lab import AdbServer, LabPhone
from tests.virtual.sitecustomize import stay_here
from tests.waiting import really_sleep, until

_MOST_SLEEP_S = 1.0  # of a test
_TMPDIR = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """A TMPDIR of this process' own: the lock of this machine as a device lies there, and others may be measuring."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    config.stash[_TMPDIR] = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix=f"edgenas-{worker}-")
    tempfile.tempdir = None
    stay_here()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_TMPDIR], ignore_errors=True)


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The product's waits are over at once (who polls still lets others work), and a test that sleeps fails.

    The lock of this machine is the tests' own.
    """
    slept_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept_s
        ours = sys._getframe(1).f_globals.get("__name__") != "subprocess"  # which polls for a process's end
        if ours and threading.current_thread() is threading.main_thread():
            slept_s += seconds
        really_sleep(seconds)

    monkeypatch.setattr(machine, "sleep", lambda seconds: really_sleep(min(seconds, 0.005)))
    monkeypatch.setattr(machine, "shared_folder", tempfile.gettempdir)
    monkeypatch.setattr(time, "sleep", sleep)
    yield
    assert slept_s <= _MOST_SLEEP_S, f"the test slept for {slept_s:.1f} s: see tests/waiting.py"


def _children() -> set[int]:
    kin = psutil.Process().children(recursive=True)
    ours = set()
    for process in kin:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline()):
                ours.add(process.pid)
    return ours


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = _children()
    try:
        return (yield)
    finally:
        item.stash[_STARTED] = _children() - before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A process that a test started ends with it."""
    result = yield
    started = item.stash.get(_STARTED, set())
    until(lambda: not started & _children(), f"processes {started} of the test ended") if started else None
    return result


_STARTED = pytest.StashKey[set[int]]()


@pytest.fixture
def weather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What befalls this machine as a device, for agents that start from now on: see tests/virtual/machine.py."""
    path = tmp_path / "weather.json"
    monkeypatch.setenv("EDGENAS_TESTS_WEATHER", str(path))
    return lambda **says: path.write_text(json.dumps(says))  # type: ignore[return-value]


# A deadline would judge the machine, and a failure must come back on the next run.
settings.register_profile("edgenas", deadline=None, derandomize=True)
settings.load_profile("edgenas")


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """The real adb server, on a port of its own; EdgeNAS finds it by the environment."""
    server = AdbServer(tmp_path_factory.mktemp("adb"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def phone(tmp_path_factory: pytest.TempPathFactory, adb_server: AdbServer) -> Iterator[LabPhone]:
    """A phone that all tests share: none of them unplugs it."""
    phone = LabPhone(tmp_path_factory.mktemp("phone"), adb_server)
    yield phone
    phone.stop()


@pytest.fixture(scope="session")
def android_phone(tmp_path_factory: pytest.TempPathFactory, adb_server: AdbServer) -> Iterator[LabPhone]:
    """The same with Android's own shell and tools."""
    phone = LabPhone(tmp_path_factory.mktemp("phone"), adb_server, android=True)
    yield phone
    phone.stop()


@pytest.fixture
def make_phone(tmp_path_factory: pytest.TempPathFactory, adb_server: AdbServer) -> Iterator[Callable[..., LabPhone]]:
    """Phones of a test's own."""
    with contextlib.ExitStack() as stack:

        def make(style: str = "classic", android: bool = False) -> LabPhone:
            phone = LabPhone(tmp_path_factory.mktemp("phone"), adb_server, style, android)
            stack.callback(phone.stop)
            return phone

        yield make
