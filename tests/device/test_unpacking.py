"""Many files in one."""

import errno
import zipfile
from pathlib import Path

import pytest

from edgenas.device import Agent
from edgenas.errors import CheckFailedError, DeviceError, InputError


def _archive(path: Path, **files: bytes) -> str:
    with zipfile.ZipFile(path, "w") as content:
        for name, data in files.items():
            content.writestr(name, data)
    return str(path)


def test_many_files_in_one(here: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "many" / "files"
    archive = _archive(tmp_path / "a.zip", **{"1.tflite": b"one", "2.tflite": b"two" * 100})
    assert here.call("unpack", archive=archive, folder=str(folder)) == {"files": 2}
    assert (folder / "2.tflite").read_bytes() == b"two" * 100
    assert not Path(archive).exists()
    for name in ("../out", "/tmp/out", "a/b", ".hidden", "a\nb"):
        with pytest.raises(InputError, match="is no plain file name"):
            here.call("unpack", archive=_archive(tmp_path / "b.zip", **{name: b"x"}), folder=str(folder))
    (tmp_path / "c.zip").write_bytes(b"no archive")
    with pytest.raises(DeviceError, match="not a zip file"):
        here.call("unpack", archive=str(tmp_path / "c.zip"), folder=str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["1.tflite", "2.tflite"]
    assert not (tmp_path / "many" / "out").exists()

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    archive = _archive(tmp_path / "d.zip", x=b"x")
    with monkeypatch.context() as patch, pytest.raises(CheckFailedError, match=r"no space is left in .*/many/files"):
        patch.setattr(Path, "write_bytes", full)
        here.call("unpack", archive=archive, folder=str(folder))
    assert not list(tmp_path.glob("*.zip")), "whatever came of it"
