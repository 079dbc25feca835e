"""Pictures as files."""

import io
from pathlib import Path
from typing import Any

import edgenas.files as files
from edgenas.errors import InputError, near


def save_figure(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure, whole or not at all, in the format that the file's name says.

    Raises:
        InputError: there is no such format.
    """
    formats, wanted = sorted(figure.canvas.get_supported_filetypes()), path.suffix.lower().removeprefix(".")
    if wanted not in formats:
        raise InputError(f"No picture can be written as {path.name!r}. {near(wanted, formats)}")
    content = io.BytesIO()
    figure.savefig(content, format=wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, content.getvalue())
