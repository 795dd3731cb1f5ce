"""Numbers of the paper's authors' code: `python tests/data/make_vpulab_ovam.py PATH`, a checkout of vpulab/ovam.

Its package is called `ovam` too, so that PATH must come before this project on the way of imports, as it does here.
"""

import torch
from peers import PROMPT, STEPS, checkout, keep, seed, stub

checkout(__doc__)
stub(
    *("denseCRF", "jupyter_bbox_widget", "matplotlib.pyplot", "pydensecrf.densecrf", "pydensecrf.utils"),
    *("requests", "segment_anything"),
)

from ovam.stable_diffusion import StableDiffusionHooker

import steady

ATTRIBUTION_PROMPT = "monkey with hat and mouth"
EVERY = 4

pipe = steady.sd()
with torch.no_grad(), StableDiffusionHooker(pipe) as hooker:
    pipe(PROMPT, num_inference_steps=STEPS, generator=seed())
token = torch.randn(2, 32, generator=seed())  # as published: the background's row, and the class's
with torch.no_grad():
    maps = hooker.get_ovam_callable()(ATTRIBUTION_PROMPT)[0]
    large = hooker.get_ovam_callable(expand_size=(512, 512))(ATTRIBUTION_PROMPT)[0]
    of_token = hooker.get_ovam_callable()(token)[0]
arrays = {"maps": maps[:, ::EVERY, ::EVERY], "large": large[:, ::32, ::32]}
hat, thing = large[3], of_token[1]
arrays["mask"] = (hat / hat.max() > 0.5)[::8, ::8]
arrays |= {"token": token, "token.maps": of_token[:, ::EVERY, ::EVERY], "token.mask": thing / thing.max() > 0.8}
keep("vpulab_ovam", "vpulab/ovam at 12afd87", arrays)
