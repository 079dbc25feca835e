"""What doctor says of the host."""

import pytest

from edgenas.workflow import doctor, examine


def test_what_signs_and_what_reaches_phones_is_named(monkeypatch: pytest.MonkeyPatch):
    found = {module: doctor._import(module, what) for module, what in doctor._PARTS.items() if "crypto" in module}
    (signs,) = found.values()
    assert (signs.level, signs.what) == ("ok", "cryptography signs bundles")
    monkeypatch.setattr(doctor, "_import", lambda module, what: doctor.Finding("ok", f"{module} {what}"))
    monkeypatch.setenv("ADB", "/no/adb")
    (adb,) = (finding for finding in examine() if "adb" in finding.what)
    assert adb.level == "ok", "boards need none"
    assert "only phones need one" in adb.what
    assert "apt-get install adb" in str(adb.remedy)
