"""The fitted mixture: densities, samples, quantiles, criteria, algebra."""
