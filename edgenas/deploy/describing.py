"""What a bundle's model says of itself to tools that know nothing of bundles."""

import importlib.metadata
from collections.abc import Sequence

from edgenas.architecture import Architecture
from edgenas.model.metadata import Metadata, add_metadata


def described(
    content: bytes, study: str, architecture: Architecture, precision: str, labels: Sequence[str], policy: str
) -> bytes:
    """The converter's file with TFLite metadata in it: what it is, the labels, and that it takes raw pixels.

    Args:
        content: of the `.tflite` file.
        study: its name.
        architecture, precision: of the network.
        labels: in the order of its outputs.
        policy: how an image of another size is brought to the input's ("fit", "crop" or "pad").
    """
    height, width, channels = architecture.input_shape
    return add_metadata(
        content,
        Metadata(
            name=study,
            description=f"Names one of {len(labels)} classes. Network {architecture.id}, {precision}.",
            version=architecture.id,
            author=f"EdgeNAS {importlib.metadata.version('edgenas')}",
            image=f"{height}x{width}x{channels}, raw pixels of 0-255: normalisation is inside the model. An image of "
            f"another size is brought to this one by '{policy}'.",
            labels=tuple(labels),
            colour="rgb" if channels == 3 else "grayscale",
        ),
    )
