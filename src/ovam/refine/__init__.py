"""Make soft results follow what is in the picture."""
