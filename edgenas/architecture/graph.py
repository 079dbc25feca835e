"""The graph that joins blocks, the one walk over its shapes, and the text notation."""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgenas.architecture.blocks import Block, Input, Operator, Shape, is_count, parse_block
from edgenas.errors import InputError, shown


@dataclass(frozen=True)
class Node:
    """A block and the nodes it reads.

    Attributes:
        block: what runs.
        inputs: indices of earlier nodes; empty means the node before.
    """

    block: Block
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layer:
    """A block at the shapes it runs on: hashable, and the key of a latency table.

    Attributes:
        block: what runs.
        input_shapes: one [height, width, channels] an input.
    """

    block: Block
    input_shapes: tuple[Shape, ...]

    def __str__(self) -> str:
        return f"{self.block.token}@{'+'.join('x'.join(map(str, shape)) for shape in self.input_shapes)}"

    @classmethod
    def parse(cls, text: str) -> "Layer":
        """The layer that `str(layer)` wrote.

        Raises:
            InputError: the text is no layer.
        """
        token, separator, shapes = text.partition("@")
        words = [shape.split("x") for shape in shapes.split("+")]
        sizes = [tuple(int(word) if is_count(word) else 0 for word in three) for three in words]
        if not separator or any(len(size) != 3 or min(size) < 1 for size in sizes):
            raise InputError(f"{shown(text)} is no layer: expected BLOCK@HEIGHTxWIDTHxCHANNELS.")
        layer = cls(parse_block(token), tuple((size[0], size[1], size[2]) for size in sizes))
        if str(layer) != text:
            raise InputError(f"{shown(text)} is not in canonical form; write {shown(str(layer))}.")
        return layer

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The operators that run."""
        return _operators(self)

    @cached_property
    def output_shape(self) -> Shape:
        """[height, width, channels] of the output."""
        return self.operators[-1].shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(operator.macs for operator in self.operators)

    @property
    def parameters(self) -> int:
        """Weights and biases of the deployed block (batch normalisation folded)."""
        return sum(operator.weights + operator.biases for operator in self.operators)

    def live_elements(self) -> int:
        """Numbers in activations that are live at the worst moment while this layer runs alone."""
        return most_live(self.lifetimes())

    def lifetimes(self, deployed: "Deployed | None" = None) -> "list[Lifetime]":
        """When each tensor is live while this layer runs alone: its inputs, then what each operator writes.

        Args:
            deployed: gives the operators that run, where those are not the block's own.
        """
        schedule = _Schedule()
        sources = [schedule.write(shape) for shape in self.input_shapes]
        schedule.run(deployed(self) if deployed else self.operators, sources)
        return schedule.lifetimes()


Deployed = Callable[[Layer], Sequence[Operator]]


# Every candidate of a search is made of the same few hundred layers: each is one object, found by one hash.
@functools.lru_cache(maxsize=65536)
def _layer(block: Block, input_shapes: tuple[Shape, ...]) -> Layer:
    return Layer(block, input_shapes)


@functools.lru_cache(maxsize=65536)
def _operators(layer: Layer) -> tuple[Operator, ...]:
    return layer.block.operators(layer.input_shapes)


@dataclass(frozen=True)
class Architecture:
    """A network as a graph of blocks: the first node is its `Input`, the last one its output.

    The text notation `str(architecture)` joins the blocks' tokens by spaces, `@i,j` after a token naming nodes it
    reads where that is not the node before. `Architecture.parse` is its inverse.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if len(self.nodes) < 2 or not isinstance(self.nodes[0].block, Input):
            raise InputError("An architecture starts with an input block and has at least one block more.")
        canonical = []
        for index, node in enumerate(self.nodes):
            if any(not 0 <= source < index for source in node.inputs):
                raise InputError(
                    f"Node {index} ({node.block.token}) reads {node.inputs}: only earlier nodes can be read."
                )
            if index > 0 and isinstance(node.block, Input):
                raise InputError(f"Node {index} is a second input block.")
            canonical.append(Node(node.block) if node.inputs == (index - 1,) else node)
        object.__setattr__(self, "nodes", tuple(canonical))

    @classmethod
    def chain(cls, *blocks: Block) -> "Architecture":
        """A network without branches."""
        return cls(tuple(Node(block) for block in blocks))

    @classmethod
    def parse(cls, text: str) -> "Architecture":
        """The architecture that `str(architecture)` wrote.

        Raises:
            InputError: the text is no architecture; the part at fault is named.
        """
        nodes = []
        for word in text.split(" "):
            token, separator, sources = word.partition("@")
            if separator and not all(map(is_count, sources.split(","))):
                raise InputError(f"{shown(word)}: expected node numbers after '@', received {shown(sources)}.")
            nodes.append(Node(parse_block(token), tuple(map(int, sources.split(","))) if separator else ()))
        architecture = cls(tuple(nodes))
        if str(architecture) != text:
            raise InputError(f"{shown(text)} is not in canonical form; write {shown(str(architecture))}.")
        return architecture

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        words = []
        for node in self.nodes:
            words.append(node.block.token + (f"@{','.join(map(str, node.inputs))}" if node.inputs else ""))
        return " ".join(words)

    @cached_property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the notation."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:12]

    @property
    def input_shape(self) -> Shape:
        """[height, width, channels] of the raw image."""
        return self.layers()[0].output_shape

    @property
    def classes(self) -> int:
        """Logits in the output."""
        return self.layers()[-1].output_shape[2]

    def sources(self, index: int) -> tuple[int, ...]:
        """The nodes that node `index` reads."""
        return self.nodes[index].inputs or ((index - 1,) if index else ())

    def layers(self) -> tuple[Layer, ...]:
        """Each node's block at the shapes it runs on, in order: the one shape walk."""
        return self._layers

    @cached_property
    def _layers(self) -> tuple[Layer, ...]:
        layers: list[Layer] = []
        for index, node in enumerate(self.nodes):
            if isinstance(node.block, Input):
                shapes: tuple[Shape, ...] = (node.block.shape,)
            else:
                shapes = tuple(layers[source].output_shape for source in self.sources(index))
            layers.append(_layer(node.block, shapes))
        return tuple(layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers())

    @property
    def parameters(self) -> int:
        """Weights and biases of the deployed network (batch normalisation folded)."""
        return sum(layer.parameters for layer in self.layers())

    def live_elements(self) -> int:
        """Numbers in activations that are live at the worst moment, the operators running one by one in order.

        Liveness over the whole schedule: a tensor lives from the operator that writes it to the last one that reads
        it; while an operator runs, what it reads and what it writes are both live.
        """
        return most_live(self.lifetimes())

    def lifetimes(self, deployed: "Deployed | None" = None) -> "list[Lifetime]":
        """When each tensor is live: the image, then what each operator writes.

        Args:
            deployed: gives the operators that run of a layer, where those are not its block's own.
        """
        schedule = _Schedule()
        outputs: list[int] = []
        for index, layer in enumerate(self.layers()):
            sources = [outputs[i] for i in self.sources(index)] if index else [schedule.write(self.input_shape)]
            outputs.append(schedule.run(deployed(layer) if deployed else layer.operators, sources))
        return schedule.lifetimes()


@dataclass(frozen=True)
class Lifetime:
    """When a tensor is live, the operators running one a step.

    Attributes:
        first: the step that writes it; 0 for an input.
        last: the step that reads it last.
        size: numbers in it, or bytes where whoever holds it says so.
    """

    first: int
    last: int
    size: int


def most_live(tensors: Iterable[Lifetime]) -> int:
    """What is live together at the worst step, in the unit of the sizes."""
    changes: dict[int, int] = {}
    for tensor in tensors:
        changes[tensor.first] = changes.get(tensor.first, 0) + tensor.size
        changes[tensor.last + 1] = changes.get(tensor.last + 1, 0) - tensor.size
    return max(itertools.accumulate(changes[step] for step in sorted(changes)), default=0)


class _Schedule:
    """Tensors of a run of operators, one a step: when each is written, when it is last read, how large it is."""

    def __init__(self) -> None:
        self._tensors: list[list[int]] = []  # [step written, step last read, elements]
        self._steps = 0

    def write(self, shape: Shape) -> int:
        """A tensor that is there from now on; its number."""
        self._tensors.append([self._steps, self._steps, shape[0] * shape[1] * shape[2]])
        return len(self._tensors) - 1

    def run(self, operators: Sequence[Operator], sources: list[int]) -> int:
        """Run a block's operators on the tensors it reads; the number of the tensor it gives."""
        tensors = list(sources)
        for operator in operators:
            for read in operator.reads:
                self._tensors[tensors[read]][1] = self._steps
            tensors.append(self.write(operator.shape))
            self._steps += 1
        return tensors[-1]

    def lifetimes(self) -> list[Lifetime]:
        """Of all tensors, in the order they were written."""
        return [Lifetime(*tensor) for tensor in self._tensors]
