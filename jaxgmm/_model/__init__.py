"""The model is its prior, weights times components; a view turns it into potentials."""
