"""Distributions of the components' means and covariances: a family each."""
