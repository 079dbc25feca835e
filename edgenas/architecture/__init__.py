"""Networks as pure data: blocks, the graph that joins them, and the one walk over shapes."""

from edgenas.architecture.blocks import Block, Conv, Dense, Head, Input, MBConv, Operator, Shape, parse_block
from edgenas.architecture.graph import Architecture, Layer, Node

__all__ = [
    "Architecture",
    "Block",
    "Conv",
    "Dense",
    "Head",
    "Input",
    "Layer",
    "MBConv",
    "Node",
    "Operator",
    "Shape",
    "parse_block",
]
