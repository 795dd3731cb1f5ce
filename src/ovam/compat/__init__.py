"""Calls that users of other libraries remember, answered by this one."""
