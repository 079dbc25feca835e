"""What to call two latency tables: by what differs between them, the shortest that tells them apart."""

import dataclasses
from dataclasses import dataclass

from edgenas.latency.table import LatencyTable

# Words that go without saying.
_UNSAID = ("", "measured")


@dataclass(frozen=True)
class Naming:
    """Names for two tables.

    Attributes:
        first, second: what tells one from the other: "int8", "float32".
        shared: what both are, of the same words: "pi, ai-edge-litert 2.3.0, 1 thread, relu6".
        place: the word before a name in a sentence: "on" a device or a runtime, "with" anything else.
        differs: (field of the identity, first, second), whatever differs.
    """

    first: str
    second: str
    shared: str
    place: str
    differs: tuple[tuple[str, str, str], ...]


def name_tables(first: LatencyTable, second: LatencyTable) -> Naming:
    """The names of two tables, and what differs in their identities."""
    mine, others = _fields(first), _fields(second)
    differs = tuple((name, mine[name], others[name]) for name in mine if mine[name] != others[name])
    words = _words(first), _words(second)
    apart = [name for name in words[0] if words[0][name] != words[1][name]]
    shared = [word for name, word in words[0].items() if name not in apart and word not in _UNSAID]
    if len(apart) > 1 and "device" in apart and first.identity.fingerprint == second.identity.fingerprint:
        apart.remove("device")  # one machine under two names
    if apart:
        names = [", ".join(each[name] or f"no {name}" for name in apart) for each in words]
    elif differs:
        names = [", ".join(f"{name} {values[table] or 'unknown'}" for name, *values in differs[:2]) for table in (0, 1)]
    else:
        names = ["the first table", "the second table"]
    place = "on" if {"device", "runtime"} & set(apart) else "with" if differs else "in"
    return Naming(names[0], names[1], ", ".join(shared), place, differs)


def label(table: LatencyTable) -> str:
    """What a person would call one table: "pi, ai-edge-litert 2.3.0, int8, 1 thread, relu6"."""
    return ", ".join(word for word in _words(table).values() if word not in _UNSAID)


def activations(table: LatencyTable) -> frozenset[str]:
    """The activations of a table's blocks."""
    return frozenset(layer.block.activation for layer in table.entries if hasattr(layer.block, "activation"))


def _activation(table: LatencyTable) -> str:
    return " and ".join(sorted(activations(table)))


def _words(table: LatencyTable) -> dict[str, str]:
    """What a person would call a table, in the order it is said."""
    identity = table.identity
    return {
        "device": identity.device,
        "runtime": f"{identity.runtime} {identity.runtime_version}".strip(),
        "precision": identity.precision,
        "threads": f"{identity.threads} thread" + ("s" if identity.threads != 1 else ""),
        "activation": _activation(table),
        "source": table.source,
    }


def _fields(table: LatencyTable) -> dict[str, str]:
    """A table's identity as texts, with what its layers and its origin add to it."""
    fields = {field.name: getattr(table.identity, field.name) for field in dataclasses.fields(table.identity)}
    fields["cores"] = ",".join(map(str, table.identity.cores or ()))
    return {name: str(value) for name, value in fields.items()} | {
        "activation": _activation(table),
        "source": table.source,
    }
