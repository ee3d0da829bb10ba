"""Potentials and rows in, sufficient statistics out: one pass over the data for all lanes.

``data`` has the rows, ``structures`` the shapes of covariances, ``passes`` the loops over blocks of
rows, ``estep`` what the algorithms call. A new pass is a file in ``passes`` and a line
of its table.
"""
