"""One lane: where it starts, what it keeps, how it ends.

``seeds`` and ``starts`` are random starts, ``given`` those of a user; ``state`` is what every
algorithm keeps, ``status`` what became of it, ``degenerate`` the rule that refuses spikes.
"""
