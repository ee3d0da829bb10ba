"""The fitted mixture: densities, samples, quantiles, criteria, algebra.

Every function takes a `State` or a `Mixture`, which ``mixture`` reads off a state.
"""
