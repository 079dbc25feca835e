"""What may vary: settings of choices, and the networks that they name."""

from edgenas.space.layer_index import Codes
from edgenas.space.mobile import MobileSpace

__all__ = ["Codes", "MobileSpace"]
