"""What a phone says of itself, doctor, setup, and the lock."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.device import Device, Phone, findings, open_phone, setup_phone
from edgenas.device.phone import read_info
from edgenas.errors import DeviceError, InputError
from tests.adb.lab import LabPhone
from tests.waiting import until

Make = Callable[..., LabPhone]
SAID = """\
ro.product.manufacturer=Google
ro.product.model=Pixel 8
ro.board.platform=zuma
ro.build.fingerprint=google/shiba/shiba:14/UQ1A.240105.004/11206848:user/release-keys
ro.build.version.release=14
ro.product.cpu.abi=arm64-v8a
kernel=5.15.110-android14
cores=9
memory_total_kb=7823916
memory_available_kb=3012345
disk_free_kb=54321098
boot_id=
governor=
"""


@contextlib.contextmanager
def opened(device: Device) -> Iterator[Phone]:
    with contextlib.ExitStack() as stack:
        yield open_phone(device, stack)


def test_what_a_phone_says():
    info = read_info(SAID, "phone")
    assert (info.cpu, info.os, info.cores) == ("Google Pixel 8 (zuma, arm64-v8a)", "Android 14", 9)
    assert (info.boot_id, info.governor) == (None, None)
    other = read_info(SAID.replace("UQ1A.240105.004", "AP1A.240405.002"), "phone")
    assert info.fingerprint != other.fingerprint, "an update of Android can change its runtime's speed"
    assert info.fingerprint == read_info(SAID.replace("54321098", "1"), "phone").fingerprint


@pytest.mark.parametrize(
    ("then", "now"),
    [("cores=9", "cores=0"), ("cores=9", "cores=-1"), ("cores=9", "cores=nan"), ("cores=9\n", ""),
     ("memory_total_kb=7823916", "memory_total_kb=99999999999999999999"), ("abi=arm64-v8a", "abi="),
     ("Pixel 8", "Pixel \x1b[31m8"), ("Pixel 8", "P" * 301)],
)  # fmt: skip
def test_a_phone_that_talks_nonsense(then: str, now: str):
    with pytest.raises(DeviceError, match="makes no sense"):
        read_info(SAID.replace(then, now), "phone")


@given(st.text())
def test_whatever_a_phone_says_is_understood_or_refused(text: str):
    with contextlib.suppress(DeviceError):
        read_info(text, "phone")


@pytest.mark.parametrize("android", [False, True])
def test_setup_sends_benchmark_model_once(make_phone: Make, tmp_path: Path, android: bool):
    device = make_phone(android=android).device(folder=str(tmp_path / "work"))
    levels = [finding.level for finding in findings(device)]
    assert levels == ["ok", "warning"], "it is not there yet"
    assert "edgenas device setup phone" in str(findings(device)[1].remedy)
    steps: list[str] = []
    version = setup_phone(device, steps.append)
    assert "EdgeNAS Stand-in (host, x86_64), Android 14" in steps[0]
    (tool,) = (tmp_path / "work" / "tools").iterdir()
    assert tool.name == f"benchmark_model-{version}"
    before = tool.stat()
    assert setup_phone(device, steps.append) == version
    assert tool.stat().st_ino == before.st_ino, "it was not sent again"
    found = findings(device)
    assert [finding.level for finding in found] == ["ok", "ok"]
    assert version in found[1].what
    tool.chmod(0o644)
    assert "may not be executed" in findings(device)[1].what
    tool.write_text("changed")
    assert "is not the benchmark_model of the host" in findings(device)[1].what
    assert setup_phone(device, steps.append) == version, "it is sent again"
    assert [finding.level for finding in findings(device)] == ["ok", "ok"]


def test_a_tool_for_another_processor_is_refused(phone: LabPhone, tmp_path: Path):
    tool = tmp_path / "benchmark_model"
    tool.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(40))
    runtime = dataclasses.replace(phone.device().runtime, benchmark_model=str(tool))
    device = phone.device(folder=str(tmp_path / "work"), runtime=runtime)
    with pytest.raises(DeviceError, match="a program for arm64-v8a, and the phone is x86_64"):
        setup_phone(device, lambda _: None)
    assert "for arm64-v8a" in findings(device)[1].what
    tool.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(DeviceError, match="does not run there, or is no benchmark_model: exit code 0, hello"):
        setup_phone(device, lambda _: None)
    (there,) = (path for path in (tmp_path / "work" / "tools").iterdir())
    assert there.stat().st_mode & 0o100, "it lies there as it should"
    (finding,) = findings(device)[1:]
    assert finding.level == "problem"
    assert "does not run there, or is no benchmark_model: exit code 0, hello" in finding.what
    tool.unlink()
    with pytest.raises(InputError, match=r"cannot be read \(No such file.*docs/phones\.md"):
        setup_phone(device, lambda _: None)


def test_doctor_says_why_a_phone_is_out_of_reach(phone: LabPhone):
    gone = dataclasses.replace(phone.device(), url="adb:GONE")
    (finding,) = findings(gone)
    assert finding.level == "problem"
    assert "no phone GONE is attached" in finding.what


@pytest.mark.parametrize("android", [False, True])
def test_one_profiler_at_a_time(make_phone: Make, android: bool):
    phone = make_phone(android=android)
    with opened(phone.device()) as first, opened(phone.device(folder="elsewhere")) as second:
        first.lock()
        first.lock()
        with pytest.raises(DeviceError, match=r"is being measured by .+@.+ since 20\d\d-"):
            second.lock()
        first.close()
        second.lock()
    with opened(phone.device()) as third:
        third.lock()


def test_a_lock_is_gone_when_the_cable_comes_out(make_phone: Make):
    phone = make_phone()
    with opened(phone.device()) as first:
        first.lock()
        phone.adbd.unplug()
        phone.plug_in()
        with opened(phone.device()) as second:

            def takes() -> bool:
                try:
                    second.lock()
                except DeviceError as error:
                    assert "is being measured by" in str(error)
                    return False
                return True

            until(takes, "the lock is free")


def test_health_is_a_sentence(phone: LabPhone):
    with opened(phone.device()) as one:
        assert one.health().startswith("Now: load ")
