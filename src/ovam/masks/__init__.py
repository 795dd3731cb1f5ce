"""Make masks from maps, and read masks that people have drawn."""
