"""Estimates beside their standard errors, for people."""

from typing import Any

import numpy as np

from jaxgmm._mixture.mixture import Mixture, StudentTMixture

# Features that a row of the table shows.
_SHOWN = 4


def table(estimate: Mixture | StudentTMixture, errors: Mixture | StudentTMixture) -> list[str]:
    """A line for each component: weight, means and standard deviations, with standard errors.

    The standard error of a standard deviation is by the delta method that of the variance over
    twice the deviation.
    """
    weights, means, covariances, *degrees = (np.asarray(a, np.float64) for a in estimate)
    of_weights, of_means, of_covariances, *of_degrees = (np.asarray(a, np.float64) for a in errors)
    sds = np.sqrt(np.einsum("kii->ki", covariances))
    of_sds = np.einsum("kii->ki", of_covariances) / (2 * sds)
    more = " ..." if means.shape[1] > _SHOWN else ""

    def row(values: Any, errors: Any) -> str:
        pairs = zip(values[:_SHOWN], errors[:_SHOWN], strict=True)
        return ", ".join(f"{a:.4g} ({b:.2g})" for a, b in pairs) + more

    deviations = "roots of the scales; degrees of freedom" if degrees else "standard deviations"
    lines = [f"component: weight; means; {deviations} (standard errors in brackets)"]
    for k, weight in enumerate(weights):
        share = row([weight], [of_weights[k]]).removesuffix(more)
        line = f"{k:>9}: {share}; {row(means[k], of_means[k])}; {row(sds[k], of_sds[k])}"
        if degrees:
            line += f"; {row([degrees[0][k]], [of_degrees[0][k]]).removesuffix(more)}"
        lines.append(line)
    return lines
