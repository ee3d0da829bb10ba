"""Potentials and rows in, sufficient statistics out: one pass over the data for all lanes.

``rows`` says what is known of the samples, ``data`` how iterations take them, ``structures`` the
shapes of covariances, ``passes`` the loops over blocks of rows, ``latent`` the true values behind
rows with gaps and errors, ``estep`` what the algorithms call. A new kind of row is a field of
`Rows` and what ``latent`` makes of it; a new pass is a file in ``passes`` and a line of its table.
"""
