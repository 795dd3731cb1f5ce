"""The recipe of mini: scenes -> tokenizer -> autoencoder -> text tower -> denoiser. Run with `ovam mini train`."""
