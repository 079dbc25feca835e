"""Data: images of any kind, brought to one input, split by seed, the test split sealed, streamed to TensorFlow."""

from edgenas.evaluation.data.arrays import prepare_arrays
from edgenas.evaluation.data.augmentation import Augment
from edgenas.evaluation.data.batches import batches, training_batches
from edgenas.evaluation.data.dataset import Dataset, open_dataset
from edgenas.evaluation.data.fashion_mnist import fetch_fashion_mnist, find_fashion_mnist
from edgenas.evaluation.data.images import DEFAULT_POLICY, Policy, prepare_image
from edgenas.evaluation.data.measures import above_chance, class_weights, metrics, paired_interval, wilson_interval
from edgenas.evaluation.data.sealed import SealedTest
from edgenas.evaluation.data.sources import DEFAULT_CACHE, load_dataset
from edgenas.evaluation.data.splits import DEFAULT_FRACTIONS, Splits, split, stratified_sample

__all__ = [
    "DEFAULT_CACHE",
    "DEFAULT_FRACTIONS",
    "DEFAULT_POLICY",
    "Augment",
    "Dataset",
    "Policy",
    "SealedTest",
    "Splits",
    "above_chance",
    "batches",
    "class_weights",
    "fetch_fashion_mnist",
    "find_fashion_mnist",
    "load_dataset",
    "metrics",
    "open_dataset",
    "paired_interval",
    "prepare_arrays",
    "prepare_image",
    "split",
    "stratified_sample",
    "training_batches",
    "wilson_interval",
]
