"""Stick-breaking weights: truncated Dirichlet and Pitman-Yor processes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import digamma, gammaln, xlogy
from jaxtyping import Bool, Float, Int

from jaxgmm._numerics.arrays import first, longer, masked_product, safe_divide
from jaxgmm._numerics.checks import check_positive
from jaxgmm._numerics.pytree import pytree


def _betaln(a: Array, b: Array) -> Array:
    """log of the beta function; `jax.scipy.special.betaln` is off by 1e-7 in float64 (jax 0.10)."""
    return gammaln(a) + gammaln(b) - gammaln(a + b)


def _log_maximum(a: Array, b: Array) -> Array:
    """log of the maximum of ``v^(a - 1) (1 - v)^(b - 1)``."""
    up, down = jnp.maximum(a - 1, 0), jnp.maximum(b - 1, 0)
    return xlogy(up, up) + xlogy(down, down) - xlogy(up + down, up + down)


@pytree
class StickBreaking:
    """``pi_k = v_k prod_{j<k} (1 - v_j)``, ``v_k ~ Beta(alpha_k, beta_k)``, the last ``v_K = 1``.

    Blei & Jordan 2006. Make one with `dirichlet_process` or `pitman_yor`. The order of the
    components matters. If the prior is the same for all components, fits keep them in the order of
    the highest bound: by decreasing mass (Kurihara, Welling & Teh 2007), but for the last one,
    which has no stick of its own and is a heavy one where the concentration is large.

    Attributes:
        alpha: ``(K - 1,)``, positive.
        beta: ``(K - 1,)``, positive. In `select` a beta of exactly 0 marks the last stick: the
            components after it are absent.

    Example:
        >>> import jaxgmm
        >>> print(jaxgmm.StickBreaking.dirichlet_process(3).mean())
        [0.5  0.25 0.25]
    """

    alpha: Float[Array, "*R Kminus1"]
    beta: Float[Array, "*R Kminus1"]

    ordered = True

    @property
    def n_components(self) -> int:
        return self.alpha.shape[-1] + 1

    @property
    def n_parameters(self) -> int:
        return self.n_components - 1

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given alpha's."""
        return {"alpha": self.alpha.shape, "beta": self.alpha.shape}

    def update(self, count: Float[Array, " K"]) -> "StickBreaking":
        """Posterior ``Beta(alpha + n_k, beta + sum_{j>k} n_j)`` (Blei & Jordan 2006, eq. 18)."""
        return StickBreaking(self.alpha + count[:-1], self.beta + _after(count))

    def interpolate(self, other: "StickBreaking", rho: Array) -> "StickBreaking":
        """The weighted mean of the natural parameters, ``(1 - rho) self + rho other``."""
        return StickBreaking(
            (1 - rho) * self.alpha + rho * other.alpha, (1 - rho) * self.beta + rho * other.beta
        )

    def with_weights(
        self, weights: Float[Array, " K"], total: Array, *, point: bool
    ) -> "StickBreaking":
        """The distribution of ``total`` observations with this mode (if ``point``) or mean."""
        base = 1 if point else jnp.finfo(weights.dtype).tiny
        down = jnp.where(self.beta > 0, base + total * _after(weights), 0)
        return StickBreaking(base + total * weights[:-1], down)

    def mode(self) -> Float[Array, " K"]:
        """Log of the weights at the mode of the sticks; -inf for an empty component."""
        up, down = jnp.maximum(self.alpha - 1, 0), jnp.maximum(self.beta - 1, 0)
        v = jnp.where(self.beta > 0, safe_divide(up, up + down), 1)
        return _weights_of(_log(v), _log(1 - v))

    def expectation(self) -> Float[Array, " K"]:
        """``E[log pi_k]``: digammas of the sticks (Blei & Jordan 2006, section 3.2)."""
        breaks = self.beta > 0
        beta = jnp.where(breaks, self.beta, 1)
        both = digamma(self.alpha + beta)
        return _weights_of(
            jnp.where(breaks, digamma(self.alpha) - both, 0),
            jnp.where(breaks, digamma(beta) - both, -jnp.inf),
        )

    def mean(self) -> Float[Array, " K"]:
        """``E[pi]``; the sticks are independent."""
        both = self.alpha + self.beta
        return jnp.exp(_weights_of(jnp.log(self.alpha / both), jnp.log(self.beta / both)))

    def sample(self, key: Array) -> Float[Array, " K"]:
        """Log of one reparameterised draw, computed in the log domain."""
        first, second = jax.random.split(key)
        dtype = self.alpha.dtype
        up = jax.random.loggamma(first, self.alpha, dtype=dtype)
        down = jax.random.loggamma(second, jnp.where(self.beta > 0, self.beta, 1), dtype=dtype)
        down = jnp.where(self.beta > 0, down, -jnp.inf)
        both = jnp.logaddexp(up, down)
        return _weights_of(up - both, down - both)

    def kl(self, prior: "StickBreaking") -> Float[Array, ""]:
        """``KL(self || prior)``: K - 1 beta distributions."""
        breaks = prior.beta > 0
        a, a0 = self.alpha, prior.alpha
        b, b0 = jnp.where(breaks, self.beta, 1), jnp.where(breaks, prior.beta, 1)
        both = digamma(a + b)
        terms = (
            _betaln(a0, b0)
            - _betaln(a, b)
            + (a - a0) * (digamma(a) - both)
            + (b - b0) * (digamma(b) - both)
        )
        return jnp.sum(jnp.where(breaks, terms, 0))

    def log_prior(self, log_weights: Float[Array, " K"]) -> Float[Array, ""]:
        """Log density of the sticks at the given weights, relative to the uniform distribution."""
        left = lax.cumlogsumexp(log_weights, reverse=True)
        known = left[:-1] > -jnp.inf
        whole = jnp.where(known, left[:-1], 0)
        log_v = jnp.where(known, log_weights[:-1] - whole, -jnp.inf)
        log_rest = jnp.where(known, left[1:] - whole, 0)
        breaks = self.beta > 0
        beta = jnp.where(breaks, self.beta, 1)
        density = masked_product(self.alpha - 1, log_v) + masked_product(beta - 1, log_rest)
        return jnp.sum(jnp.where(breaks, density - _betaln(self.alpha, beta), 0))

    def gain(self, count: Float[Array, " K"], *, point: bool) -> Float[Array, ""]:
        """What these counts add to the bound: log of ``prod pi_k^n_k``, averaged or at its maximum.

        A ratio of beta functions for every stick; if ``point``, those of the maxima in their place.
        """
        breaks = self.beta > 0
        log_integral = _log_maximum if point else _betaln

        def total(a: Array, b: Array) -> Array:
            return jnp.sum(jnp.where(breaks, log_integral(a, jnp.where(breaks, b, 1)), 0))

        return total(self.alpha + count[:-1], self.beta + _after(count)) - total(
            self.alpha, self.beta
        )

    def best_order(self, count: Float[Array, " K"], *, point: bool) -> Int[Array, " K"]:
        """The order of the components with the highest `gain`; the present one if none is better.

        Of a Dirichlet or a Pitman-Yor process it is exactly the best. There beta_k is alpha_(k+1) +
        beta_(k+1) - 1, so that the gammas of neighbouring sticks cancel. They leave, for a given
        last component, ``-sum_k log(beta_k + sum_{j>k} n_j)``, and the others are best by
        decreasing count. So it is enough to try every component as the last one.
        """
        numbers = jnp.arange(self.n_components)
        place, here = numbers[None], numbers[:, None]
        last = jnp.sum(self.present()) - 1
        # of those by decreasing count, number `here` is moved to the last place
        later = jnp.where(place == last, here, jnp.where(place < here, place, place + 1))
        moved = jnp.where((here < last) & (place <= last), later, place)
        orders = jnp.concatenate([place, jnp.argsort(-count)[moved]])
        gains = jax.vmap(lambda order: self.gain(count[order], point=point))(orders)
        # what rounding may be is no reason to rename
        slack = 4 * jnp.finfo(count.dtype).eps * gammaln(jnp.sum(count) + 2)
        return orders[jnp.argmax(gains.at[0].add(slack))]

    def counts(self, prior: "StickBreaking") -> Float[Array, " K"]:
        """The counts that led from a prior to these sticks: the inverse of `update`."""
        return jnp.concatenate([self.alpha - prior.alpha, (self.beta - prior.beta)[-1:]])

    def present(self) -> Bool[Array, " K"]:
        """Which components are present: all components, except in `select`."""
        breaks = jnp.cumsum(self.beta == 0) == 0
        return jnp.concatenate([jnp.ones((1,), bool), breaks])

    def padded(self, n_absent: int) -> "StickBreaking":
        """The same distribution with ``n_absent`` absent components added."""
        return StickBreaking(longer(self.alpha, n_absent, 1.0), longer(self.beta, n_absent))

    def truncated(self, n_components: int) -> "StickBreaking":
        """The distribution of the first ``n_components`` components."""
        return StickBreaking(
            first(self.alpha, n_components - 1), first(self.beta, n_components - 1)
        )

    def kept(self, index: Any) -> "StickBreaking":
        """Of a prior: the distribution of so many components, whichever they are."""
        return self.truncated(len(index))

    def check(self) -> None:
        """Refuse values that are none of a prior's."""
        check_positive("the prior's alpha", self.alpha)
        check_positive("the prior's beta", self.beta)

    def is_proper(self) -> Array:
        return jnp.all((self.alpha > 0) & (self.beta > 0))

    def has_mode(self) -> Array:
        """Whether the posterior's mode exists for any data."""
        return jnp.all((self.alpha >= 1) & (self.beta >= 1))

    def site(self) -> tuple[str, Any]:
        """A name and a NumPyro distribution of the sticks."""
        from numpyro.distributions import Beta

        return "sticks", Beta(self.alpha, self.beta).to_event(1)

    def at_site(self, value: Array) -> Array:
        """The weights at a value of the site."""
        one = jnp.ones((1,), value.dtype)
        left = jnp.concatenate([one, jnp.cumprod(1 - value)])
        return left * jnp.concatenate([value, one])

    def site_value(self, weights: Array) -> Array:
        """The value of the site at some weights."""
        left = jnp.cumsum(weights[::-1])[::-1]
        # the last one may be all that is left, to rounding
        return jnp.clip(weights / left, max=1 - jnp.finfo(left.dtype).eps)[:-1]

    def transforms(self) -> dict[str, Any]:
        """NumPyro bijections from unconstrained space, for each field."""
        from numpyro.distributions import biject_to, constraints

        positive = biject_to(constraints.positive)
        return {"alpha": positive, "beta": positive}

    @classmethod
    def dirichlet_process(
        cls, n_components: int, concentration: float | Array = 1.0, dtype: Any = None
    ) -> "StickBreaking":
        """A Dirichlet process truncated at K components: every stick ``Beta(1, concentration)``.

        Example:
            >>> import jaxgmm
            >>> print(jaxgmm.StickBreaking.dirichlet_process(3, 1.0).mean())
            [0.5  0.25 0.25]
        """
        return cls.pitman_yor(n_components, 0.0, concentration, dtype)

    @classmethod
    def pitman_yor(
        cls,
        n_components: int,
        discount: float | Array,
        concentration: float | Array = 1.0,
        dtype: Any = None,
    ) -> "StickBreaking":
        """A Pitman-Yor process truncated at K components.

        Stick k is ``Beta(1 - discount, concentration + k discount)`` (Ishwaran & James 2001), for
        ``0 <= discount < 1``: weights with a power-law tail.
        """
        k = jnp.arange(1, n_components, dtype=dtype or float)
        discount, concentration = (jnp.asarray(a, k.dtype) for a in (discount, concentration))
        return cls(jnp.broadcast_to(1 - discount, k.shape), concentration + k * discount)

    @classmethod
    def flat(cls, n_components: int, dtype: Any = None) -> "StickBreaking":
        """A Dirichlet process of concentration 1: every stick uniform."""
        return cls.dirichlet_process(n_components, 1.0, dtype)


def _after(count: Float[Array, " K"]) -> Float[Array, " Kminus1"]:
    """Sums over the later components, ``sum_{j>k} count_j`` for k < K."""
    return jnp.cumsum(count[:0:-1])[::-1]


def _weights_of(log_v: Array, log_rest: Array) -> Float[Array, " K"]:
    """log pi from log v and log(1 - v) of the sticks."""
    zero = jnp.zeros((1,), log_v.dtype)
    left = jnp.concatenate([zero, jnp.cumsum(log_rest)])
    return left + jnp.concatenate([log_v, zero])


def _log(p: Array) -> Array:
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1)), -jnp.inf)
