"""Potentials and rows in, sufficient statistics out: one pass over the data for all lanes."""
