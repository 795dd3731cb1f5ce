"""What a generated data set is worth: segmenters trained on real scenes, on generated pictures, and on both."""
