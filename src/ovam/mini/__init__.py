"""The embedded small diffusion model and the rendered world it was trained on."""
