"""Files of images without what is not the picture: broken metadata must not cost an image its pixels."""

import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PICTURE = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf")
_JPEG_SCAN = 0xDA  # what follows is coded pixels


def without_metadata(content: bytes) -> bytes | None:
    """A PNG or JPEG with its picture and its EXIF alone; None for any other file, and where nothing is left out."""
    if content.startswith(_PNG):
        bare = _PNG + b"".join(_chunks(content))
    elif content.startswith(b"\xff\xd8\xff"):
        bare = b"\xff\xd8" + b"".join(_segments(content))
    else:
        return None
    return bare if len(bare) < len(content) else None


def _chunks(content: bytes) -> Iterator[bytes]:
    at = len(_PNG)
    while at + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + 12 + length]
        whole = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if name in _PNG_PICTURE and (whole or name != b"eXIf"):
            yield chunk
        at += 12 + length


def _segments(content: bytes) -> Iterator[bytes]:
    at = 2
    while at + 4 <= len(content):
        mark, kind, length = struct.unpack_from(">BBH", content, at)
        if mark != 0xFF or kind == _JPEG_SCAN:
            break
        segment = content[at : at + 2 + length]
        exif = kind == 0xE1 and segment[4:10] == b"Exif\0\0"
        adobe = kind == 0xEE and len(segment) >= 16  # says which colours these are
        if exif or adobe or not (0xE0 <= kind <= 0xEF or kind == 0xFE):
            yield segment
        at += 2 + length
    yield content[at:]


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height, from the header of a WebP; None for any other file."""
    head = content[:30]
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
