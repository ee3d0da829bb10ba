"""Distributions of the mixture's weights."""
