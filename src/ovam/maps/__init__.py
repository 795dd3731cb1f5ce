"""Make attention maps from a trace and any words."""
