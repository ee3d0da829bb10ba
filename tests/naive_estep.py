"""The E-step in NumPy and float64, which stores the N x K responsibilities: an oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxgmm.stats import Potentials, Stats

N, D, K = 203, 3, 4


def potentials(
    dtype: str = "float64", structure: str = "full", seed: int = 0, k: int = K, spread: float = 2.0
) -> Potentials:
    rng = np.random.default_rng(seed)
    shape = (D, D) if structure == "tied" else (k, D, D)
    factor = np.triu(rng.standard_normal(shape) * 0.4) + np.eye(D)
    mean = rng.standard_normal((k, D)) * spread
    const = rng.standard_normal(k)
    arrays = (jnp.asarray(a, dtype) for a in (const, mean, factor))
    return Potentials(*arrays, structure)


def samples(dtype: str = "float64", n: int = N, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, D)) * 2 + 1, dtype)


def stack(trees: list) -> Potentials:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def naive(x: jax.Array, p: Potentials, weight: object = None) -> dict[str, np.ndarray]:
    rows = np.asarray(x, np.float64)
    const, mean, factor = (np.asarray(a, np.float64) for a in (p.const, p.mean, p.factor))
    w = np.ones(len(rows)) if weight is None else np.asarray(weight, np.float64)
    factor = np.broadcast_to(factor, (len(mean), *factor.shape[-2:]))
    whitened = np.einsum("nkd,kde->nke", rows[:, None] - mean, factor)
    logits = const - 0.5 * np.sum(whitened**2, -1)
    lse = scipy.special.logsumexp(logits, axis=1)
    r = np.exp(logits - lse[:, None])
    entropy = scipy.special.entr(r).sum(1) @ w
    r *= w[:, None]
    count = r.sum(0)
    mean_hat = (r.T @ rows) / np.where(count > 0, count, 1)[:, None]
    residual = rows[:, None] - mean_hat
    scatter = np.einsum("nk,nkd,nke->kde", r, residual, residual)
    if p.structure == "tied":
        scatter = scatter.sum(0)
    log_evidence = lse @ w
    return {
        "count": count,
        "mean": mean_hat,
        "scatter": scatter,
        "entropy": entropy,
        "log_evidence": log_evidence,
    }


def assert_stats(actual: Stats, expected: dict[str, np.ndarray], tolerance: float) -> None:
    n = expected["count"].sum()
    seen = expected["count"] > 0
    for name, value in expected.items():
        found = np.asarray(getattr(actual, name))
        if name == "mean":  # of no meaning where nothing was counted
            found, value = found[seen], value[seen]
        # sums over n samples, so their rounding is of order n
        scale = tolerance if name == "mean" else tolerance * n
        np.testing.assert_allclose(found, value, rtol=tolerance, atol=scale, err_msg=name)


def stats_dict(stats: Stats) -> dict[str, np.ndarray]:
    names = ("count", "mean", "scatter", "entropy", "log_evidence")
    return {name: np.asarray(getattr(stats, name)) for name in names}
