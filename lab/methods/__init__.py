"""Train the methods that need weights of their own."""
