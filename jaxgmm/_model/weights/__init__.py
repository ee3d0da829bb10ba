"""Distributions of the mixture's weights, a file each: see `families.Weights` for the protocol."""
