"""The last training of a chosen network, the bundle it becomes, and the way onto a device and back."""

from edgenas.deploy.bundle import Bundle, Samples
from edgenas.deploy.exporting import Exported, export
from edgenas.deploy.manifest import Manifest
from edgenas.deploy.releases import Deployed, RolledBack, deployed, rollback
from edgenas.deploy.shipping import Check, Shipped, ship
from edgenas.deploy.training import FinalTraining, train_bundle

__all__ = [
    "Bundle",
    "Check",
    "Deployed",
    "Exported",
    "FinalTraining",
    "Manifest",
    "RolledBack",
    "Samples",
    "Shipped",
    "deployed",
    "export",
    "rollback",
    "ship",
    "train_bundle",
]
