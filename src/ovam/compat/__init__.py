"""The calls of other libraries, implemented with ovam."""
