"""Jobs that span rooms: the doctor, the last training of a study's pick, the quickstart."""

from edgenas.workflow.advice import Faster, faster_precision
from edgenas.workflow.doctor import examine
from edgenas.workflow.final import ship_bundle, ship_to_fleet, train
from edgenas.workflow.quickstart import Told, quickstart

__all__ = [
    "Faster",
    "Told",
    "examine",
    "faster_precision",
    "quickstart",
    "ship_bundle",
    "ship_to_fleet",
    "train",
]
