"""How sure a fit is: what another sample from the same source would have made of it.

The information says it of one estimate by curvature, replicates say it of anything by trying: each
is a data set drawn again, from the fitted mixture or from the data, and fitted again.
"""
