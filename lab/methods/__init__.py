"""Published methods: how far the library's are from the authors' own code, on the same runs."""
