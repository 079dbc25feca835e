"""How a space is explored: the study, samplers, objectives and limits, the Pareto front."""

from edgenas.strategy.front import Front, Point
from edgenas.strategy.searching import Needed, Prepared, load, prepare, reopen, run, search
from edgenas.strategy.settings import Final, Limits, Settings, load_settings, study_folder
from edgenas.strategy.study import StoredStudy, Study, TrialReport

__all__ = [
    "Final",
    "Front",
    "Limits",
    "Needed",
    "Point",
    "Prepared",
    "Settings",
    "StoredStudy",
    "Study",
    "TrialReport",
    "load",
    "load_settings",
    "prepare",
    "reopen",
    "run",
    "search",
    "study_folder",
]
