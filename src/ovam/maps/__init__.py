"""From a trace and any words to attention maps."""
