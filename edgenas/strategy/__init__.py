"""How a space is explored: the study, samplers, objectives and limits, the Pareto front."""

from edgenas.strategy.front import Front, Point
from edgenas.strategy.searching import Inputs, Prepared, load_inputs, prepare, reopen, run, search
from edgenas.strategy.settings import Final, Limits, Settings, load_settings, remove_study, study_folder, study_names
from edgenas.strategy.study import StoredStudy, Study, TrialReport

__all__ = [
    "Final",
    "Front",
    "Inputs",
    "Limits",
    "Point",
    "Prepared",
    "Settings",
    "StoredStudy",
    "Study",
    "TrialReport",
    "load_inputs",
    "load_settings",
    "prepare",
    "remove_study",
    "reopen",
    "run",
    "search",
    "study_folder",
    "study_names",
]
