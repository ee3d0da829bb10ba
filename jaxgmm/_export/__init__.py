"""A fit as something else: a file that needs no pickle, or draws for ArviZ."""
