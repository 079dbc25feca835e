"""How a candidate is trained, and how much of it a search pays for."""

from dataclasses import dataclass

from edgenas.architecture import Architecture
from edgenas.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; kept in the study.

    Attributes:
        batch_size: images a step.
        learning_rate: at its highest, for AdamW (Loshchilov and Hutter, ICLR 2019); reached after `warmup` of all
            steps, then falling to 0 as a cosine (Loshchilov and Hutter, SGDR, ICLR 2017).
        weight_decay: decoupled.
        warmup: share of the steps.
        label_smoothing: share of each label given to all classes alike (Szegedy et al., CVPR 2016).
        flip: mirror images left-right at random, where a mirrored image keeps its class.
        shift: largest random shift, share of the side; what comes in is black.
        balance_classes: weight the loss so that every class counts the same.
    """

    batch_size: int = 128
    learning_rate: float = 0.004
    weight_decay: float = 0.02
    warmup: float = 0.2
    label_smoothing: float = 0.0
    flip: bool = False
    shift: float = 0.0
    balance_classes: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.learning_rate <= 0 or not 0 <= self.warmup < 1:
            raise InputError(f"Expected batch_size >= 2, learning_rate > 0, warmup in [0, 1). Received: {self}")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"Expected label_smoothing in [0, 1), received {self.label_smoothing}.")


@dataclass(frozen=True)
class Fidelity:
    """How much of a full training a candidate gets.

    Attributes:
        epochs: passes over its share of the data.
        share: of the training images, the same stratified ones for every candidate.
        scale: of the input's sides; the network is otherwise the same.
    """

    epochs: int = 1
    share: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 < self.share <= 1 or not 0 < self.scale <= 1:
            raise InputError(f"Expected epochs >= 1, share and scale in (0, 1]. Received: {self}")


@dataclass(frozen=True)
class Candidate:
    """A network as it would be deployed.

    Attributes:
        architecture: the network.
        precision: "float32" or "int8".
        recipe: how it is trained.
    """

    architecture: Architecture
    precision: str
    recipe: Recipe
