"""DAAM's calls (castorini/daam), answered from a trace with DAAM's numbers: code moves here by its import alone.

Where DAAM can't answer or goes wrong, this does not follow: pictures that are not square, maps at (height, width),
runs without guidance, of which DAAM drops half of the heads, words that were not in the prompt, and every family of
models. Parsed and syntactic maps, which need spaCy, and evaluation against masks are not here.
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
