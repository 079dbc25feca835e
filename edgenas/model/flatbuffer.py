"""Flatbuffers without generated code: tables are written and read by the numbers of their fields.

Written with the `flatbuffers` package. Read by offsets that are checked against the content: a file may be anything,
and the package's own reader takes a negative offset for one from the end.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import flatbuffers

from edgenas.errors import InputError

# A table by the numbers of its fields, a vector of tables or of floats, a string, a byte (an int).
Value = Mapping[int, "Value"] | Sequence["Value"] | str | float
_HEADER_BYTES = 8  # where the root is, and the identifier
# Many may share one place: a small file can list more than there is memory for.
_MOST_TABLES, _MOST_NUMBERS = 10_000, 256


def build(root: Value, identifier: bytes) -> bytes:
    """A whole flatbuffer whose root is a table."""
    builder = flatbuffers.Builder()
    builder.Finish(place(builder, root), file_identifier=identifier)
    return bytes(builder.Output())


def place(builder: flatbuffers.Builder, value: Value) -> int:
    """Write a table, vector or string; its offset as the builder counts, from the end."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Mapping):
        numbers = {slot: item for slot, item in value.items() if isinstance(item, int)}
        offsets = {slot: place(builder, item) for slot, item in value.items() if not isinstance(item, int)}
        return place_table(builder, offsets, numbers, builder.PrependByteSlot)
    assert isinstance(value, Sequence)
    if value and isinstance(value[0], float):
        builder.StartVector(4, len(value), 4)
        for number in reversed(value):
            builder.PrependFloat32(number)
        return int(builder.EndVector())
    return place_offsets(builder, [place(builder, item) for item in value])


def place_table(
    builder: flatbuffers.Builder, offsets: Mapping[int, int], numbers: Mapping[int, int], write: Callable[..., None]
) -> int:
    """Write a table.

    Args:
        builder: of the flatbuffer.
        offsets: of tables, vectors and strings placed before, by field.
        numbers: that stand in the table itself, by field.
        write: the builder's method for them, such as `PrependUint32Slot`.
    """
    builder.StartObject(max(*offsets, *numbers, -1, -1) + 1)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in numbers.items():
        write(slot, number, 0)
    return int(builder.EndObject())


def place_offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """Write a vector of what was placed before."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


@dataclass(frozen=True)
class Table:
    """A table at its place in a flatbuffer; a field that is absent is None, 0, or empty.

    Every method raises `InputError` where an offset leads out of the content.
    """

    content: bytes
    position: int

    @classmethod
    def root(cls, content: bytes, identifier: bytes) -> "Table":
        """The root of a flatbuffer.

        Raises:
            InputError: the content has another identifier.
        """
        if content[4:_HEADER_BYTES] != identifier:
            raise InputError(
                f"Expected a flatbuffer of the kind {identifier.decode()}, received one that begins with "
                f"{content[:_HEADER_BYTES]!r}."
            )
        return cls(content, cls(content, 0)._follow(0))

    def field(self, slot: int) -> int | None:
        """Where a field's own bytes are."""
        vtable = self.position - self._number("i", self.position)
        if 4 + 2 * slot + 2 > self._number("H", vtable):
            return None
        return self.position + offset if (offset := self._number("H", vtable + 4 + 2 * slot)) else None

    def target(self, slot: int) -> int | None:
        """Where the table, vector or string is that a field refers to."""
        return None if (at := self.field(slot)) is None else self._follow(at)

    @property
    def slots(self) -> int:
        """How many fields its writer knew."""
        return (self._number("H", self.position - self._number("i", self.position)) - 4) // 2

    def number(self, slot: int, form: str) -> int:
        """A whole number; `form` is `struct`'s letter."""
        return 0 if (at := self.field(slot)) is None else self._number(form, at)

    def table(self, slot: int) -> "Table | None":
        """A table."""
        return None if (at := self.target(slot)) is None else Table(self.content, at)

    def tables(self, slot: int) -> "list[Table]":
        """A vector of tables."""
        start, length = self._vector(slot, 4, _MOST_TABLES)
        return [Table(self.content, self._follow(start + 4 * index)) for index in range(length)]

    def entry(self, slot: int, index: int) -> "Table":
        """One of a vector of tables, however long that is."""
        start, length = self._vector(slot, 4)
        if not 0 <= index < length:
            raise InputError(f"The flatbuffer is damaged: it names entry {index} of a list of {length}.")
        return Table(self.content, self._follow(start + 4 * index))

    def numbers(self, slot: int, form: str) -> tuple[float, ...]:
        """A vector of numbers of four bytes; `form` is `struct`'s letter."""
        start, length = self._vector(slot, 4, _MOST_NUMBERS)
        return struct.unpack_from(f"<{length}{form}", self.content, start)

    def data(self, slot: int) -> bytes:
        """A vector of bytes."""
        start, length = self._vector(slot, 1)
        return self.content[start : start + length]

    def text(self, slot: int) -> str:
        """A string."""
        try:
            return self.data(slot).decode()
        except UnicodeDecodeError:
            raise InputError(f"Expected text in a flatbuffer, received {self.data(slot)[:40]!r}.") from None

    def _vector(self, slot: int, element_bytes: int, most: int | None = None) -> tuple[int, int]:
        """Where its first element is, and how many there are."""
        at = self.target(slot)
        if at is None:
            return 0, 0
        length = self._number("I", at)
        if most is not None and length > most:
            raise InputError(f"The flatbuffer is damaged: expected at most {most} entries in a list, it has {length}.")
        self._within(at + 4, element_bytes * length)
        return at + 4, length

    def _follow(self, at: int) -> int:
        return at + self._number("I", at)

    def _number(self, form: str, at: int) -> int:
        self._within(at, struct.calcsize(form))
        return int(struct.unpack_from(f"<{form}", self.content, at)[0])

    def _within(self, start: int, length: int) -> None:
        if not 0 <= start <= start + length <= len(self.content):
            raise InputError(
                f"The flatbuffer is damaged: expected {length} bytes at {start}, it has {len(self.content)} in all."
            )
