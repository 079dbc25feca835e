"""Latency tables: what layers cost, how their costs add up, how far to trust the sum, and which table fits."""

from edgenas.latency.table.parts import Entry, Identity
from edgenas.latency.table.table import SUFFIX, LatencyTable, MissingLayersError, Source, remove_table, table_names

__all__ = ["SUFFIX", "Entry", "Identity", "LatencyTable", "MissingLayersError", "Source", "remove_table", "table_names"]
