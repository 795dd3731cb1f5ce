"""Pseudo-masks: the methods with words and with tokens on the same pictures, and the paper's ablations."""
