"""Densities of samples, and the components that they belong to."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._estep.log_evidence import row_log_evidence
from jaxgmm._estep.padded import by_row
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.row_logits import relative_row_logits, row_logits, row_width
from jaxgmm._estep.rows import Rows, Samples, allowed
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import (
    Mixture,
    Model,
    check_fitted_rows,
    is_predictive,
    n_components_of,
    plug_in,
    view,
)
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import replace


@usage("jaxgmm.log_prob(result, x)")
def log_prob(state: Model, x: Samples) -> Float[Array, " N"]:
    """Log density of each sample, in nats: ``(N,)``.

    After EM it is the density of `mixture`. After CAVI and SVI it is the posterior predictive, in
    which the parameters are integrated out. For full covariances that is a mixture of Student-t
    densities (Bishop 2006, eq. 10.81), for a known covariance a mixture of wider normal densities.
    It is exact for q and in closed form; only `IndependentNormalGamma`, which is not conjugate,
    needs quadrature over the precision. That of Student-t components (`with_student_t`) has no
    closed form: theirs is the density at the posterior means of the parameters. For a `Mixture` it
    is the density of that mixture, so ``log_prob(mixture(state), x)`` is the plug-in density. Of
    `Rows` with missing values or noise it is the density of what was observed, and of labelled rows
    that of the row and its label.

    Raises:
        ValueError: for bad samples, and for rows with noise after CAVI and SVI, whose predictive
            density has no closed form.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 2))).best
        >>> jaxgmm.log_prob(state, x[:5]).shape
        (5,)
    """
    model, rows = check_fitted_rows(state, x, None, "log_prob", far=True)
    if rows.noise is not None and is_predictive(model):
        raise ValueError(
            "the posterior predictive density of samples with noise has no closed form; take that "
            "of the mean parameters, jaxgmm.log_prob(jaxgmm.mixture(result), rows)."
        )
    return by_row(_log_prob, model, rows, n_components_of(model))


def log_density(state: State | Mixture, rows: Rows) -> Array:
    """`log_prob` of checked rows."""
    if not is_predictive(state):
        return row_log_evidence(rows, plug_in(state))

    def of_block(block: Rows) -> Array:
        values = log_predictive_joint(state, block)
        may = allowed(block.labels, values.shape[1])
        values = values if may is None else jnp.where(may, values, -jnp.inf)
        return jax.nn.logsumexp(values, axis=-1)

    return map_blocks(of_block, rows.by_themselves, row_width(rows, state.posterior.components))


def log_predictive_joint(state: State, rows: Rows) -> Float[Array, "N K"]:
    """Log predictive density of rows without noise, and of each component."""
    q = state.posterior
    values = q.components.log_predictive(rows.x, rows.missing)
    log_weights = jnp.log(q.weights.mean())
    if q.background:
        # known, so that its density does not depend on how the posterior is read
        joint = row_logits(replace(rows, labels=None), state.potentials)[:, 0]
        values = values.at[:, 0].set(joint - q.weights.expectation()[0])
    return values + log_weights[None]


_log_prob = program()(log_density)


@usage("jaxgmm.responsibilities(result, x)")
def responsibilities(state: Model, x: Samples) -> Float[Array, "N K"]:
    """Probability of each component for each sample, ``(N, K)``; rows sum to 1.

    They are computed in the state's own view: by Bayes' rule at the estimate after EM, and as q(z)
    after CAVI and SVI.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> halves, means = jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]])
        >>> pair = jaxgmm.Mixture(halves, means, jnp.ones((2, 1, 1)))
        >>> print(jaxgmm.responsibilities(pair, jnp.array([[2.0]])))
        [[0.5 0.5]]
    """
    model, rows = check_fitted_rows(state, x, None, "responsibilities", far=True)
    return by_row(_responsibilities, model, rows, n_components_of(model))


@program()
def _responsibilities(state: State | Mixture, rows: Rows) -> Array:
    return responsibilities_at(view(state), rows)


def responsibilities_at(potentials: Potentials, rows: Rows) -> Array:
    """`responsibilities` under potentials, of checked rows."""

    def of_block(block: Rows) -> Array:
        return jax.nn.softmax(relative_row_logits(block, potentials), axis=-1)

    return map_blocks(of_block, rows.by_themselves, row_width(rows, potentials))


@usage("jaxgmm.predict(result, x)")
def predict(state: Model, x: Samples) -> Int[Array, " N"]:
    """The most probable component of each sample: ``(N,)``, from 0 to K - 1.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> halves, means = jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]])
        >>> pair = jaxgmm.Mixture(halves, means, jnp.ones((2, 1, 1)))
        >>> print(jaxgmm.predict(pair, jnp.array([[-1.0], [5.0]])))
        [0 1]
    """
    model, rows = check_fitted_rows(state, x, None, "predict", far=True)
    return by_row(_predict, model, rows, n_components_of(model))


@program()
def _predict(state: State | Mixture, rows: Rows) -> Array:
    return labels_at(view(state), rows)


def labels_at(potentials: Potentials, rows: Rows) -> Array:
    """`predict` under potentials, of checked rows."""

    def of_block(block: Rows) -> Array:
        return jnp.argmax(relative_row_logits(block, potentials), axis=-1)

    return map_blocks(of_block, rows.by_themselves, row_width(rows, potentials))
