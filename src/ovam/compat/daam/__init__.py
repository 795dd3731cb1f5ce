"""DAAM's calls (castorini/daam) with DAAM's numbers, computed from a trace: to use it, change only the import.

It also works where DAAM fails or is wrong: pictures that are not square (maps are (height, width)), runs without
guidance (DAAM drops half of the heads), words that were not in the prompt, and every model family of ovam. Not
included: parsed and syntactic maps, which need spaCy, and evaluation against masks.
"""

from ovam.compat.daam.errors import ExperimentFileError, NoHeatMapsError, WordNotFoundError
from ovam.compat.daam.experiment import GenerationExperiment
from ovam.compat.daam.heat_maps import GlobalHeatMap, WordHeatMap
from ovam.compat.daam.seeds import set_seed
from ovam.compat.daam.tracer import DiffusionHeatMapHooker, trace

__all__ = [
    "DiffusionHeatMapHooker",
    "ExperimentFileError",
    "GenerationExperiment",
    "GlobalHeatMap",
    "NoHeatMapsError",
    "WordHeatMap",
    "WordNotFoundError",
    "set_seed",
    "trace",
]
