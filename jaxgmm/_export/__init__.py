"""A fit as something else: a file, a folder of checkpoints while it runs, or draws for ArviZ."""
