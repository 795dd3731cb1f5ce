"""The commands of the command line as Python functions; each command calls one of them."""

from ovam.progress import Progress as Progress
from ovam.progress import no_progress as no_progress

NUM_INFERENCE_STEPS = 30
GUIDANCE_SCALE = 7.5
