"""Backbones: one file per model family, each a subclass of `base.Backbone`."""
