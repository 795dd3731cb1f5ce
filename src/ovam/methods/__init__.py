"""Published methods that make masks, on any trace: `Grounded(weights="w.safetensors").segment(trace, ["cat"])`.

Each is a frozen object whose fields are the method's numbers, and the defaults are those that were published.
"""
