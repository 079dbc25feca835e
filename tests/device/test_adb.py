"""Phones over adb, with the real client: what it says is explained, and two phones are told apart."""

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.device import Device, Runtime, adb, connect, open_agent, process
from edgenas.device.adb import explain_state
from edgenas.errors import DeviceError
from tests.adb.lab import AdbServer, LabPhone
from tests.waiting import until

Make = Callable[..., LabPhone]


def device_at(serial: str) -> Device:
    return Device("phone", f"adb:{serial}", runtime=Runtime("benchmark-model", benchmark_model="x"))


@pytest.mark.parametrize(
    ("serial", "state", "words"),
    [
        ("A1", "unauthorized", r"'unauthorized': .*confirm 'Allow USB debugging'"),
        ("A1", "offline", r"'offline': .*or: adb -s A1 reconnect$"),
        ("10.0.0.7:5555", "offline", r"adb disconnect 10\.0\.0\.7:5555; adb connect 10\.0\.0\.7:5555$"),
        ("A1", "authorizing", "confirm on it"),
        ("A1", "connecting", "try again in a moment"),
        ("A1", "no permissions (user in plugdev group; are your udev rules wrong?)", "udev rules"),
        ("A1", "bootloader", "fastboot reboot"),
        ("A1", "recovery", "adb -s A1 reboot"),
        ("A1", "sideload", "update"),
        ("A1", "host", "another adb host"),
        ("A1", "something new", "adb says it is 'something new'"),
    ],
)
def test_each_state_is_explained_in_one_line(serial: str, state: str, words: str):
    text = explain_state(serial, {serial: state, "other": "device"})
    assert text is not None
    assert re.search(words, text), text
    assert "\n" not in text


def test_a_phone_that_is_not_attached_is_told_from_others():
    assert explain_state("A1", {"A1": "device"}) is None
    assert "adb sees no phone at all): plug it in" in str(explain_state("A1", {}))
    assert "(adb sees B2, C3): plug it in" in str(explain_state("A1", {"C3": "device", "B2": "offline"}))
    assert "udev rules" in str(explain_state("A1", {"????????????": "no permissions"})), "then it has no number either"
    assert "adb connect pixel:5555" in str(explain_state("pixel:5555", {}))


def test_an_unknown_serial_is_one_line(adb_server: AdbServer, phone: LabPhone):
    with connect(device_at("NOSUCH")) as connection, pytest.raises(DeviceError) as caught:
        connection.run(["true"])
    assert f"no phone NOSUCH is attached (adb sees {phone.serial}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_client_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADB", "/no/adb")
    with connect(device_at("A1")) as connection, pytest.raises(DeviceError, match=r"'/no/adb', which is no program"):
        connection.run(["true"])
    monkeypatch.delenv("ADB")
    monkeypatch.setenv("PATH", "/nowhere")
    with connect(device_at("A1")) as connection, pytest.raises(DeviceError, match="sudo apt-get install adb"):
        connection.run(["true"])


def test_a_phone_that_has_not_allowed_us(make_phone: Make, adb_server: AdbServer):
    phone = make_phone()
    phone.adbd.authorised = False
    adb_server.attach(phone.serial, "unauthorized")
    with connect(phone.device()) as connection, pytest.raises(DeviceError, match="Allow USB debugging") as caught:
        connection.run(["true"])
    assert "\n" not in str(caught.value)


def test_two_phones_are_told_apart(make_phone: Make, tmp_path: Path):
    """Without a serial number adb would refuse: more than one device."""
    phones = [make_phone(), make_phone()]
    (tmp_path / "file").write_text("for the second")
    with connect(phones[1].device()) as connection:
        connection.put(tmp_path / "file", "edgenas/file")
    assert (phones[1].home / "edgenas" / "file").read_text() == "for the second"
    assert not (phones[0].home / "edgenas").exists()
    for phone in phones:
        with connect(phone.device()) as connection:
            assert connection.home == str(phone.home)


def test_a_cable_that_comes_out_in_mid_push_leaves_the_old_file(make_phone: Make, tmp_path: Path):
    phone = make_phone()
    source, target = tmp_path / "source", phone.home / "there" / "target"
    source.write_bytes(os.urandom(8_000_000))
    target.parent.mkdir()
    target.write_text("old")
    with connect(phone.device()) as connection:
        phone.adbd.cut_after = 3_000_000
        with pytest.raises(DeviceError, match=r"could not be written: .*(offline|is attached)") as caught:
            connection.put(source, str(target))
        assert "\n" not in str(caught.value)
        assert target.read_text() == "old"
        with pytest.raises(DeviceError, match=r"offline|is attached"):
            connection.run(["true"])
        phone.plug_in()
        connection.put(source, str(target))
        assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_full_phone_is_named(phone: LabPhone, tmp_path: Path):
    """/dev/full is a disk without room; it comes in the file's place when the phone makes room for it."""
    source, target = tmp_path / "source", phone.home / "full" / "target"
    source.write_bytes(b"x" * 100_000)
    phone.replace("rm", '/bin/rm "$@"; ln -s /dev/full "$3"')
    try:
        with (
            connect(phone.device()) as connection,
            pytest.raises(DeviceError, match=r"could not be written: .*No space"),
        ):
            connection.put(source, str(target))
    finally:
        (phone.bin / "rm").unlink()
    assert not target.exists()


def test_what_arrives_with_other_content_is_refused(phone: LabPhone, tmp_path: Path):
    source, folder = tmp_path / "source", phone.home / "other"
    source.write_bytes(b"as it was sent")
    phone.replace("wc", f'/usr/bin/wc "$@"; printf X | dd of={folder}/target.part conv=notrunc 2>/dev/null')
    try:
        with connect(phone.device()) as connection, pytest.raises(DeviceError, match="other content arrived"):
            connection.put(source, str(folder / "target"))
    finally:
        (phone.bin / "wc").unlink()
    assert list(folder.iterdir()) == []


def test_a_phone_that_sends_more_than_it_said_does_not_fill_the_hosts_disk(make_phone: Make, tmp_path: Path):
    phone = make_phone(style="canned")
    (tmp_path / "long").write_bytes(os.urandom(3_000_000))
    phone.replace("wc", "echo 10")
    with connect(phone.device()) as connection, pytest.raises(DeviceError, match="at most 1000 bytes, received more"):
        connection.get(str(tmp_path / "long"), tmp_path / "back", largest_bytes=1000)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["long"]


def test_odd_answers_are_refused_in_one_line(make_phone: Make, tmp_path: Path):
    """No number that a phone says ends in a traceback."""
    phone = make_phone()
    with connect(phone.device()) as connection:
        code = "9" * 5000
        with pytest.raises(DeviceError, match="link broke"):
            connection.run(["sh", "-c", f"printf '\\nedgenas-exit:{code}\\n' >&2; kill -9 $PPID"])
        (phone.home / "file").write_text("x")
        phone.replace("sha256sum", "exit 0")
        with pytest.raises(DeviceError, match="arrived with other content"):
            connection.get("file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_process_that_runs_on_ends_with_its_connection(phone: LabPhone):
    with connect(phone.device()) as connection:
        started = connection.start(["sh", "-c", 'echo ready; echo $$; cat; echo "$1"', "sh", "it's"])
        said = b""
        while said.count(b"\n") < 2:
            said += started.receive(10)
        assert said.startswith(b"ready\n")
        pid = int(said.split()[1])
        started.send(b"hello\n")
        assert started.receive(10) == b"hello\n"
        with pytest.raises(TimeoutError):
            started.receive(0.01)
        assert Path(f"/proc/{pid}").exists()
        started.close()
        until(lambda: not Path(f"/proc/{pid}").exists(), "it ended")


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_transfer_that_takes_too_long_is_ended(
    phone: LabPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    client = tmp_path / "adb"
    client.write_text(f'#!/bin/sh\n[ "$3" = push ] || [ "$3" = pull ] && exec sleep 300\nexec {adb.find_adb()} "$@"\n')
    client.chmod(0o755)
    clock, ended = itertools.count(0, 100), []  # type: ignore[var-annotated]
    really_transfer, really_kill = adb.AdbConnection._transfer, process.kill_process

    def transfer(*what: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(process, "time", SimpleNamespace(monotonic=lambda: next(clock)))
            patch.setattr(process, "_WATCH_S", 0.001)
            patch.setattr(process, "kill_process", lambda it: ended.append(really_kill(it)))
            really_transfer(*what)

    (tmp_path / "file").write_text("x")
    with connect(phone.device()) as connection:
        remote = f"{connection.home}/slow"
        connection.put(tmp_path / "file", remote)
        monkeypatch.setenv("ADB", str(client))
        monkeypatch.setattr(adb.AdbConnection, "_transfer", transfer)
        with pytest.raises(DeviceError, match=r"could not be (written|read) within 250 s"):
            getattr(connection, way)(*((tmp_path / "file", remote)[:: 1 if way == "put" else -1]), timeout_s=250)
    assert (len(ended), next(clock)) == (1, 400)


def test_no_agent_on_a_phone(phone: LabPhone):
    with connect(phone.device()) as connection, pytest.raises(DeviceError, match="a phone has no Python"):
        open_agent(connection)
