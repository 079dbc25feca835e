"""`devices/NAME.toml`."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgenas.device import (
    Device,
    Limits,
    Runtime,
    device_names,
    fingerprint,
    list_devices,
    parse_url,
    phone_delegate,
    remove,
)
from edgenas.errors import InputError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
PRINT = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"  # as ssh-keygen -lf prints GitHub's key


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_saved_and_loaded_again_is_the_same():
    full = Device(
        "pi", "ssh://me@pi.lan:2222", KEY, "~/.ssh/id_pi", "/data/edgenas",
        Runtime("tflite-runtime", "~/tflite/bin/python", (2, 3)), Limits(max_latency_ms=8, max_model_kb=300.5),
    )  # fmt: skip
    for device in (full, Device("plain", "ssh://pi")):
        path = device.save()
        assert Device.load(device.name) == device
        assert "name" not in path.read_text()
    assert {"pi", "plain"} <= set(device_names())
    assert full in list_devices()


def test_the_device_local_comes_with_edgenas_and_stays():
    assert Device.load("local").url == "local:"
    with pytest.raises(InputError, match="came with EdgeNAS"):
        remove("local")
    Device("local", "local:", folder="elsewhere").save()
    assert Device.load("local").folder == "elsewhere", "the user's own comes first"
    remove("local")
    assert Device.load("local").folder == ".edgenas"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('url = "local:"\nidentityfile = "x"', "unknown key 'identityfile'.*'identity_file'"),
        ('url = "local:"\n[runtime]\npackage = "onnx"', "expected one of"),
        ('url = "local:"\n[runtime]\ncores = [-1]', "cores"),
        ('url = "local:"\n[limits]\nmax_latency_ms = 0', "max_latency_ms is 0.*above 0"),
        ('url = "local:"\nfolder = "../up"', "folder"),
        ('url = "ssh://pi"\nhost_key = "AAAA"', "host key 'AAAA'"),
        ('url = "local:"\nname = "other"', "name inside is 'other'"),
        ("url = 3", "expected str"),
        ("", "'url' is missing"),
        ("url = ", "cannot be read"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(project: Path, text: str, message: str):
    (project / "devices").mkdir()
    (project / "devices" / "pi.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        Device.load("pi")


def test_an_unknown_device_suggests_the_near_one():
    Device("raspberry", "ssh://pi").save()
    with pytest.raises(InputError, match=r"Did you mean 'raspberry'.*edgenas device add rasberry"):
        Device.load("rasberry")
    with pytest.raises(InputError, match="Did you mean 'raspberry'"):
        remove("rasberry")
    with pytest.raises(InputError, match="no name"):
        Device.load("../etc/passwd")


@pytest.mark.parametrize(
    ("url", "kind", "host", "user", "port"),
    [
        ("local:", "local", "localhost", None, None),
        ("ssh://Pi.lan", "ssh", "Pi.lan", None, None),
        ("ssh://me@10.0.0.2:2222", "ssh", "10.0.0.2", "me", 2222),
        ("ssh://me@[fe80::1%eth0]:22", "ssh", "fe80::1%eth0", "me", 22),
        ("adb:emulator-5554", "adb", "emulator-5554", None, None),
    ],
)
def test_urls(url, kind, host, user, port):
    address = parse_url(url)
    assert (address.kind, address.host, address.user, address.port) == (kind, host, user, port)


@pytest.mark.parametrize(
    "url",
    ["", "pi", "http://pi", "ssh://", "ssh://pi:99999", "ssh://pi:0", "ssh://pi/x", "ssh://-oProxyCommand=x",
     "ssh://a b", "ssh://$(id)@pi", "adb:", "adb:-s", "local"],
)  # fmt: skip
def test_other_urls_are_refused(url):
    with pytest.raises(InputError, match="expected local:"):
        parse_url(url)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(InputError, match="holds a password") as caught:
        Device("pi", "ssh://me:hunter2@pi")
    assert "hunter2" not in str(caught.value)


def test_fingerprint_is_openssh_s():
    assert fingerprint(KEY) == PRINT


TOOL = "~/benchmark_model"


def test_a_phone_is_saved_and_loaded_again():
    phone = Device("phone", "adb:39111F", runtime=Runtime("benchmark-model", benchmark_model=TOOL, delegate="gpu"))
    phone.save()
    assert Device.load("phone") == phone
    assert phone_delegate(phone) == "GPU"
    plain = Device("phone", "adb:39111F", runtime=Runtime("benchmark-model", benchmark_model=TOOL))
    assert phone_delegate(plain) == "XNNPACK"
    assert phone_delegate(Device("pi", "ssh://pi")) is None


@pytest.mark.parametrize(
    ("url", "runtime", "words"),
    [
        ("adb:1", Runtime(), "package is ai-edge-litert; expected benchmark-model"),
        ("adb:1", Runtime("benchmark-model"), "benchmark_model is None.*--benchmark-model PATH"),
        ("adb:1", Runtime("benchmark-model", benchmark_model="a\nb"), "benchmark_model is 'a.*expected the path"),
        ("adb:1", Runtime("benchmark-model", "python3", benchmark_model=TOOL), "a phone has none"),
        ("ssh://pi", Runtime("benchmark-model", benchmark_model=TOOL), "expected ai-edge-litert or tflite-runtime"),
        ("ssh://pi", Runtime(benchmark_model=TOOL), "for phones"),
        ("local:", Runtime(delegate="gpu"), "for phones"),
    ],
)
def test_a_phone_runs_benchmark_model_and_nothing_else_does(url: str, runtime: Runtime, words: str):
    with pytest.raises(InputError, match=words):
        Device("phone", url, runtime=runtime)


def test_an_unknown_delegate_is_refused(project: Path):
    (project / "devices").mkdir()
    text = 'url = "adb:1"\n[runtime]\npackage = "benchmark-model"\nbenchmark_model = "x"\ndelegate = "hexagon"\n'
    (project / "devices" / "phone.toml").write_text(text)
    with pytest.raises(InputError, match=r"expected one of .*xnnpack.*received 'hexagon'"):
        Device.load("phone")


def test_importing_the_room_imports_no_ssh_library():
    code = "import edgenas.device, sys; sys.exit('paramiko' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
