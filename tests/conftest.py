"""Settings of all tests."""

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.adb.lab import AdbServer, LabPhone

# Before anything imports TensorFlow: no banner, no GPU, and the only backend that the converter knows.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

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
