"""How a space is explored: the study, samplers, objectives and limits, the Pareto front."""

from edgenas.strategy.front import Front, Point
from edgenas.strategy.search import Prepared, prepare, reopen, run, search
from edgenas.strategy.settings import Final, Limits, Settings, load_settings, study_folder
from edgenas.strategy.study import Study, TrialReport, counts, open_storage, points_of

__all__ = [
    "Final",
    "Front",
    "Limits",
    "Point",
    "Prepared",
    "Settings",
    "Study",
    "TrialReport",
    "counts",
    "load_settings",
    "open_storage",
    "points_of",
    "prepare",
    "reopen",
    "run",
    "search",
    "study_folder",
]
