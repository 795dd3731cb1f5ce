"""From maps to masks, and masks that people have drawn."""
