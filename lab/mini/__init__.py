"""How the embedded model is trained, judged and measured: `python -m lab.mini`."""
