"""The live model of a device, for an application that runs there. Standard library alone: copy it into yours.

    live = LiveModel("/home/pi/.edgenas/models/shoes")
    while True:
        if live.changed():                        # a new release, or a rollback
            folder = live.folder()                # model.tflite, labels.txt and manifest.json that belong together
            interpreter = Interpreter(str(folder / "model.tflite"))
        ...

`current` is a link that is switched in one rename, so what is read through it is the old release or the new one, whole.
The link is followed once for all files of a release: read one by one through it they could be of two.
"""

from __future__ import annotations

from pathlib import Path


class LiveModel:
    """One model below `models/` of a device's work folder."""

    def __init__(self, folder: str | Path) -> None:
        self._link = Path(folder) / "current"
        self._seen = Path()

    def folder(self) -> Path:
        """The folder of the release that is live now; FileNotFoundError where none is."""
        self._seen = self._link.readlink()
        return self._link.parent / self._seen

    def changed(self) -> bool:
        """Whether another release is live than `folder` last gave. It costs one system call: ask often."""
        try:
            return self._link.readlink() != self._seen
        except FileNotFoundError:
            return False


if __name__ == "__main__":
    import sys
    import time

    live = LiveModel(sys.argv[1])
    while True:
        if live.changed():
            print(f"live now: {live.folder()}", flush=True)
        time.sleep(0.2)
