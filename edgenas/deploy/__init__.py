"""The last training of a chosen network, the bundle it becomes, and the way onto a device and back."""

from edgenas.deploy.bundle import Bundle
from edgenas.deploy.exporting import Exported, export
from edgenas.deploy.gates import GATES
from edgenas.deploy.live import Deployed, RolledBack, Verified
from edgenas.deploy.manifest import Gate, Manifest
from edgenas.deploy.prediction import Prediction, predict
from edgenas.deploy.releases import deployed, rollback, verify
from edgenas.deploy.samples import Samples
from edgenas.deploy.shipped import Check, Shipped
from edgenas.deploy.shipping import ship
from edgenas.deploy.training import FinalTraining, train_bundle

__all__ = [
    "GATES",
    "Bundle",
    "Check",
    "Deployed",
    "Exported",
    "FinalTraining",
    "Gate",
    "Manifest",
    "Prediction",
    "RolledBack",
    "Samples",
    "Shipped",
    "Verified",
    "deployed",
    "export",
    "predict",
    "rollback",
    "ship",
    "train_bundle",
    "verify",
]
