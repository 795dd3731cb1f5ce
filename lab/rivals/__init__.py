"""Rivals of `ovam.optimize_tokens` in one harness, written from what their papers and settings tell.

Every rival is a module with its `Settings` and

    fit(traces, masks, word, settings, watch=...) -> Fitted

so that all of them see the same queries and the same annotations, and a `Fitted` asks any trace for the word's scores.
"""
