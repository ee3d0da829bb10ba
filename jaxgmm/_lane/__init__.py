"""One lane: where it starts, what it keeps, how it ends."""
