"""How a candidate is trained, and how much of it a search pays for."""

from dataclasses import dataclass
from typing import Literal

from edgenas.architecture import Architecture
from edgenas.errors import InputError

Grade = Literal["none", "light", "strong"]
"""How strongly training images are varied; see `edgenas.evaluation.data.augmentation`."""

FEW, SOME, MANY = 1_000, 5_000, 20_000
"""Training images: below `FEW` strong variations may pay, below `SOME` large steps; from `MANY` on neither does."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; kept in the study. What is None follows from the number of training images.

    Attributes:
        batch_size: images a step.
        learning_rate: at its highest, for AdamW (Loshchilov and Hutter, ICLR 2019); see `rate_at`.
        weight_decay: decoupled.
        label_smoothing: share of each label given to all classes alike (Szegedy et al., CVPR 2016).
        augment: how strongly images are varied. None: candidates get the grade of `grade_of`; the last training takes
            the one that does best on held-out images.
        flip: mirror images left-right at random, where a mirrored image keeps its class.
        mixup: blend pairs of images and labels by a share drawn from Beta(mixup, mixup) (Zhang et al., ICLR 2018); 0:
            never.
        balance_classes: weight the loss so that every class counts the same.
    """

    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    augment: Grade | None = None
    flip: bool = False
    mixup: float = 0.0
    balance_classes: bool = False

    def __post_init__(self) -> None:
        if (self.batch_size is not None and self.batch_size < 2) or (
            self.learning_rate is not None and not self.learning_rate > 0
        ):
            raise InputError(f"Expected batch_size >= 2 and learning_rate > 0. Received: {self}")
        if not (0 <= self.label_smoothing < 1 and self.weight_decay >= 0 and self.mixup >= 0):
            raise InputError(f"Expected label_smoothing in [0, 1), weight_decay and mixup >= 0. Received: {self}")

    def batch_of(self, images: int) -> int:
        """Images a step."""
        suited = 64 if images < MANY else 128
        return min(self.batch_size or suited, images)

    def rate_of(self, images: int) -> float:
        """The highest learning rate."""
        return self.learning_rate or (0.012 if images < SOME else 0.008 if images < MANY else 0.004)

    def grade_of(self, images: int) -> Grade:
        """How strongly a short training varies its images."""
        return self.augment or ("light" if images < MANY else "none")


@dataclass(frozen=True)
class Fidelity:
    """How much of a full training a candidate gets.

    Attributes:
        steps: of its recipe's batch size. None: as many as the first candidates need to do better than guessing.
        share: of the training images, the same stratified ones for every candidate.
        scale: of the input's sides; the network is otherwise the same.
    """

    steps: int | None = None
    share: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if (self.steps is not None and self.steps < 1) or not 0 < self.share <= 1 or not 0 < self.scale <= 1:
            raise InputError(f"Expected steps >= 1, share and scale in (0, 1]. Received: {self}")


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
