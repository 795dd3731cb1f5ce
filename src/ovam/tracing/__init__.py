"""Watch a run of a pipeline, and keep from it what later maps need."""
