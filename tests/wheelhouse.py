"""Wheels that boards of tests install from: no test reaches a package index. `scripts/environment.sh dev` fills it."""

import sys
from pathlib import Path

WHEELS = Path(sys.prefix) / "wheelhouse"
# What pip on a board is told: no index, and these wheels.
PIP = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
