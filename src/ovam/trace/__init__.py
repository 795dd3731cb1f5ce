"""A trace: the stored queries of one image's run, and the text side that turns text into keys."""
