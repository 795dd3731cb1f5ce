"""Adapters: one file a model family, each keeping the contract of `base.Backbone`."""
