"""A fit as something else: a file, draws for ArviZ."""
