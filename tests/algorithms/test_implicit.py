"""Derivatives by the fixed point against those of the unrolled iterations, and against refits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import clusters
from jax import Array, lax

import jaxgmm
from jaxgmm._algorithms.fixed_point import conjugate_residuals, fixed_point
from jaxgmm._numerics.pytree import replace

# Relative to the largest derivative of a leaf. In float32 the products themselves are rounded.
TOLERANCE = {"float32": 1e-4, "float64": 1e-8}
ROWS = [
    (kind, family, dtype)
    for kind in ("em", "cavi")
    for family in ("full", "diag", "tied", "known")
    for dtype in ("float64", "float32")
]
ROWS += [("cavi", "independent", "float64"), ("cavi", "dirichlet process", "float64")]
DEFAULT = [("em", "full", "float64")]


def model(kind: str, family: str, x: Array) -> jaxgmm.Algorithm:
    if family == "independent":
        weak = jaxgmm.default_prior(x, 3, "diag")
        ones = jnp.ones((3, 2), x.dtype)
        components = jaxgmm.IndependentNormalGamma(weak.components.mean, 0.1 * ones, ones, ones)
        return jaxgmm.cavi(jaxgmm.Prior(weak.weights, components))
    if family == "dirichlet process":
        return jaxgmm.cavi(jaxgmm.default_prior(x, 3, "full", "dirichlet_process"))
    covariance = jnp.eye(2, dtype=x.dtype) if family == "known" else family
    if kind == "cavi":
        return jaxgmm.cavi(jaxgmm.default_prior(x, 3, covariance))
    return jaxgmm.em(jaxgmm.flat_prior(3, 2, covariance, x.dtype), 0.01)


def weights(x: Array) -> Array:
    return jnp.asarray(np.random.default_rng(1).uniform(0.5, 2, len(x)), x.dtype)


def converge(algorithm: jaxgmm.Algorithm, x: Array, w: Array, steps: int) -> jaxgmm.State:
    """A state that many iterations cannot improve."""
    means = jnp.asarray([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]], x.dtype)
    start = algorithm.init(jax.random.key(0), x, {"means": means}, sample_weight=w)
    return unrolled(algorithm, start, x, w, steps)


def unrolled(
    algorithm: jaxgmm.Algorithm, state: jaxgmm.State, x: Array, w: Array | None, steps: int
) -> jaxgmm.State:
    running = jnp.asarray(int(jaxgmm.Status.RUNNING), jnp.int32)

    def step(state: jaxgmm.State, _: None) -> tuple[jaxgmm.State, None]:
        return replace(algorithm.step(state, x, sample_weight=w), status=running), None

    return lax.scan(step, state, length=steps)[0]


def readout(state: jaxgmm.State) -> Array:
    """A number to which every leaf of the posterior adds about as much."""
    rng = np.random.default_rng(2)
    total = jnp.zeros((), state.objective.dtype)
    for leaf in jax.tree.leaves(state.posterior):
        share = jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
        total += jnp.sum(share * leaf / (1 + lax.stop_gradient(jnp.abs(leaf))))
    return total


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        # that by the prior's mean is 1 - N / (N + mean_precision), and 1e-3: float32 rounds the 1
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-2))


@pytest.mark.parametrize(
    ("kind", "family", "dtype"),
    [row if row in DEFAULT else pytest.param(*row, marks=pytest.mark.slow) for row in ROWS],
)
def test_the_gradient_is_that_of_the_unrolled_iterations(kind: str, family: str, dtype: str):
    x = clusters(dtype, 60)
    w, algorithm = weights(x), model(kind, family, x)
    state = jax.jit(converge, static_argnums=3)(algorithm, x, w, 2000)

    def by_unrolling(algorithm: jaxgmm.Algorithm, x: Array, w: Array) -> Array:
        # from the fixed point k iterations give the first k terms of the Neumann series
        return readout(unrolled(algorithm, state, x, w, 500))

    def by_fixed_point(algorithm: jaxgmm.Algorithm, x: Array, w: Array) -> Array:
        return readout(fixed_point(algorithm, state, x, sample_weight=w))

    arguments = (algorithm, x, w)  # the algorithm's leaves are the prior's, and reg_covar
    expected = jax.jit(jax.grad(by_unrolling, (0, 1, 2)))(*arguments)
    found = jax.jit(jax.grad(by_fixed_point, (0, 1, 2)))(*arguments)
    for leaf in jax.tree.leaves((expected[1:], expected[0].prior.weights)):
        assert leaf.size == 0 or np.abs(leaf).max() > 1e-3
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.fixture(scope="module")
def fitted() -> tuple[jaxgmm.Algorithm, jaxgmm.State, Array]:
    x = clusters(n=60)
    algorithm = model("em", "diag", x)
    return algorithm, jax.jit(converge, static_argnums=3)(algorithm, x, jnp.ones(60), 2000), x


def test_values_are_the_states_own(fitted: tuple[jaxgmm.Algorithm, jaxgmm.State, Array]):
    algorithm, state, x = fitted
    same = fixed_point(algorithm, state, x)
    assert jax.tree.structure(same) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_forward_and_reverse_mode_and_second_derivatives_are_those_of_refits(
    fitted: tuple[jaxgmm.Algorithm, jaxgmm.State, Array],
):
    algorithm, state, x = fitted
    direction = jnp.asarray(np.random.default_rng(3).standard_normal(x.shape))
    h = 1e-4
    moves = jnp.asarray([-h, 0.0, h])

    @jax.jit
    @jax.vmap
    def refits(t: Array) -> jaxgmm.State:
        return unrolled(algorithm, state, x + t * direction, None, 1000)

    @jax.jit
    @jax.vmap
    def slopes(t: Array, refit: jaxgmm.State) -> tuple[Array, Array, Array]:
        def along(t: Array) -> Array:
            mean = fixed_point(algorithm, refit, x + t * direction).posterior.components.mean
            return jnp.sum(mean**3)

        return jax.jacfwd(along)(t), jax.grad(along)(t), jax.jacfwd(jax.jacfwd(along))(t)

    states = refits(moves)
    forward, reverse, second = slopes(moves, states)
    values = np.sum(np.asarray(states.posterior.components.mean) ** 3, axis=(1, 2))
    # central differences; their error is of the order of h^2
    np.testing.assert_allclose(forward[1], (values[2] - values[0]) / (2 * h), rtol=1e-4)
    np.testing.assert_allclose(second[1], (forward[2] - forward[0]) / (2 * h), rtol=1e-4)
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)


@pytest.mark.slow
def test_the_objective_changes_as_the_envelope_theorem_says():
    x = clusters(n=60)
    algorithm = model("cavi", "diag", x)
    state = jax.jit(converge, static_argnums=3)(algorithm, x, jnp.ones(60), 2000)

    def objective(prior: jaxgmm.Prior) -> Array:
        return fixed_point(jaxgmm.cavi(prior), state, x).objective

    found = jax.jit(jax.grad(objective))(state.prior)
    assert_close(found, jaxgmm.prior_gradient(state, x), 1e-8)


def test_memory_does_not_grow_with_the_iterations(
    fitted: tuple[jaxgmm.Algorithm, jaxgmm.State, Array],
):
    algorithm, state, x = fitted

    def memory(steps: int, implicit: bool) -> int:
        def loss(x: Array) -> Array:
            found = unrolled(algorithm, state, x, None, steps)
            return readout(fixed_point(algorithm, found, x) if implicit else found)

        analysis = jax.jit(jax.grad(loss)).lower(x).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert memory(1000, implicit=True) == memory(10, implicit=True)
    # the test can fail: an unrolled gradient keeps something of every iteration
    assert memory(1000, implicit=False) > 10 * memory(10, implicit=False)


def test_the_solver_takes_few_products_where_the_iterations_are_slow():
    rng = np.random.default_rng(4)
    # eigenvalues of I - J as EM has them: three slow directions, others quick, not self-adjoint
    values = np.concatenate([[1e-3, 1e-2, 0.1], rng.uniform(0.7, 1, 17), np.ones(20)])
    basis = np.eye(40) + 0.1 * rng.standard_normal((40, 40))
    matrix = jnp.asarray(basis @ np.diag(values) @ np.linalg.inv(basis))
    b = jnp.asarray(rng.standard_normal(40))
    solution, steps = conjugate_residuals(lambda v: matrix @ v, b, 1e-12)
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, b), rtol=1e-8)
    assert steps <= 20  # the plain iteration would take 28,000
    assert conjugate_residuals(lambda v: matrix @ v, 0 * b, 1e-12)[1] == 0


def test_what_is_no_fixed_point_is_refused(
    fitted: tuple[jaxgmm.Algorithm, jaxgmm.State, Array],
):
    algorithm, state, x = fitted
    cavi = jaxgmm.cavi(jaxgmm.default_prior(x, 3, "diag"))
    svi = jaxgmm.svi(cavi.prior, jaxgmm.natural_gradient())
    with pytest.raises(ValueError, match="it was given a NaturalSVI"):
        fixed_point(svi, state, x)
    with pytest.raises(ValueError, match="the expectation view, but the state is of the mode"):
        fixed_point(cavi, state, x)
    with pytest.raises(ValueError, match="takes the state of one lane, but this one has 2"):
        fixed_point(algorithm, jax.tree.map(lambda a: jnp.stack([a, a]), state), x)
    collapsed = replace(state, status=jnp.asarray(int(jaxgmm.Status.COLLAPSED), jnp.int32))
    with pytest.raises(ValueError, match="the state failed, COLLAPSED: A component is empty"):
        fixed_point(algorithm, collapsed, x)
    with pytest.raises(ValueError, match="x has 1 features"):
        fixed_point(algorithm, state, x[:, :1])
    wrapped = fixed_point(jaxgmm.squarem(algorithm), state, x)
    np.testing.assert_array_equal(
        wrapped.posterior.components.mean, state.posterior.components.mean
    )
