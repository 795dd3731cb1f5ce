"""Published methods: how far the library's are from the authors' own code, and training of those that need weights."""
