"""The recipe of mini: scenes -> tokenizer -> autoencoder -> text tower -> denoiser: `python -m lab.mini train`."""
