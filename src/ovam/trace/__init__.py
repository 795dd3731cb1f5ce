"""A trace: the stored queries of one image of a run, and a text side, the object that turns text into keys."""
