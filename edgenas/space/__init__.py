"""What may vary: settings of choices, and the networks that they name."""

from edgenas.space.mobile import Codes, MobileSpace

__all__ = ["Codes", "MobileSpace"]
