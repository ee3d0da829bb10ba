"""Stochastic inference by gradients: any of the three views, any optax optimiser."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._estep import Data, log_evidence_on
from jaxgmm._kernel import single
from jaxgmm._natural import NaturalGradient, NaturalSVI
from jaxgmm._potentials import Potentials
from jaxgmm._prior import Prior
from jaxgmm._pytree import pytree, replace, static
from jaxgmm._starts import posterior_at
from jaxgmm._state import State, initial_state
from jaxgmm._stochastic import Memory, Stochastic, empty_trace
from jaxgmm._unconstrained import (
    constrain,
    forward,
    interior,
    inverse,
    point_transforms,
    unconstrain,
)
from jaxgmm._validate import check_choice, check_positive_int, check_prior, check_proper
from jaxgmm._views import sampled_potentials, view_penalty, view_potentials

View = Literal["sample", "expectation", "mode"]
VIEWS: tuple[View, ...] = ("sample", "expectation", "mode")


@pytree
class SVI(Stochastic):
    """See `svi`."""

    prior: Prior
    learning_rate: Float[Array, ""] | None
    optimizer: Any = static()
    batch_size: int | None = static()
    objective_view: View = static()
    n_draws: int = static()

    name = "SVI"

    @property
    def view(self) -> str:
        return "mode" if self.objective_view == "mode" else "expectation"

    @property
    def noisy(self) -> bool:
        return self.batch_size is not None or self.objective_view == "sample"

    def transformation(self) -> Any:
        """The optax transformation; built around the traced learning rate if there is one."""
        return self.optimizer if self.learning_rate is None else self.optimizer(self.learning_rate)

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data) -> State:
        coordinates = self.coordinates(posterior)
        memory = Memory(
            key=key,
            order_key=shared_key,
            trace=empty_trace(self.prior.dtype),
            coordinates=coordinates,
            optimizer_state=self.transformation().init(coordinates),
        )
        return initial_state(self.prior, posterior, self.view, memory=memory)

    # --- coordinates: the posterior's own, or in the mode view those of the point estimate ---

    def coordinates(self, q: Prior) -> Any:
        """Unconstrained coordinates of a posterior."""
        if self.objective_view != "mode":
            return {"weights": unconstrain(q.weights), "components": unconstrain(q.components)}
        point = {
            "weights": interior(jnp.exp(q.weights.mode())),
            "means": q.components.mean,
            "covariances": q.components.covariances(mode=True),
        }
        return {name: inverse(t, point[name]) for name, t in self._point_maps().items()}

    def posterior(self, coordinates: Any, total: Array) -> Prior:
        """The posterior at given coordinates."""
        if self.objective_view != "mode":
            return Prior(
                constrain(self.prior.weights, coordinates["weights"]),
                constrain(self.prior.components, coordinates["components"]),
            )
        maps = self._point_maps()
        point = {name: forward(t, coordinates[name]) for name, t in maps.items()}
        covariances = point.get("covariances", self.prior.components.covariances(mode=True))
        parameters = (point["weights"], point["means"], covariances)
        return posterior_at(self.prior, parameters, total, mode=True)

    def _point_maps(self) -> dict[str, Any]:
        return point_transforms(self.prior.components.covariance_name == "known")

    # --- one iteration ---

    def draws(self, key: Array, q: Prior) -> Potentials:
        """Potentials to average over, with a leading axis of draws."""
        if self.objective_view == "sample":
            keys = jax.random.split(key, self.n_draws)
            return jax.vmap(sampled_potentials, (0, None))(keys, q)
        return single(view_potentials(self.view, q))

    def advance(self, state: State, data: Data) -> State:
        memory = state.memory
        key = jax.random.fold_in(memory.key, state.n_iter)

        def loss(coordinates: Any) -> tuple[Array, tuple[Array, Prior]]:
            q = self.posterior(coordinates, data.total)
            evidence = jax.vmap(log_evidence_on, (None, 0))(data, self.draws(key, q))
            penalty = view_penalty(self.view, q, self.prior)
            objective = data.scale * jnp.mean(evidence) - penalty
            return -objective / data.total, (objective, q)

        gradient, (objective, q) = jax.grad(loss, has_aux=True)(memory.coordinates)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes float and integer scalars
            updates, optimizer_state = self.transformation().update(
                gradient, memory.optimizer_state, memory.coordinates
            )
        coordinates = jax.tree.map(lambda a, b: a + b.astype(a.dtype), memory.coordinates, updates)
        memory = replace(memory, coordinates=coordinates, optimizer_state=optimizer_state)
        # q is where the objective was measured; the memory holds where it will be measured next
        return replace(state, posterior=q, objective=objective, memory=memory)


class _Factory:
    """An optimiser factory that compares by what it does, so that equal ones share programs."""

    def __init__(self, factory: Callable[..., Any]):
        self.factory = factory
        if isinstance(factory, functools.partial):
            self.identity = (factory.func, factory.args, tuple(sorted(factory.keywords.items())))
        else:
            self.identity = (factory, (), ())

    def __call__(self, learning_rate: Array) -> Any:
        return self.factory(learning_rate)

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Factory) and self.identity == other.identity


def svi(
    prior: Prior,
    optimizer: Any,
    batch_size: int | None = None,
    *,
    learning_rate: float | None = None,
    view: View | None = None,
    n_draws: int = 1,
) -> SVI | NaturalSVI:
    """Stochastic inference: gradient steps by optax, or natural-gradient steps, on minibatches.

    With an optax optimiser, the assignments are summed out (log-sum-exp over the components) and
    the bound ``E[log p(x | theta)] - KL(q || prior)`` is maximised in unconstrained coordinates:

    - ``view="sample"``: from reparameterised draws of the parameters, with implicit gradients of
      the gamma variates (Kingma & Welling 2014; Figurnov et al. 2018);
    - ``view="expectation"``: CAVI's own bound, with exact gradients;
    - ``view="mode"``: the likelihood plus log prior of a point estimate (gradient EM).

    With ``optimizer=natural_gradient()`` each step mixes the conjugate update of a minibatch into
    the posterior: stochastic variational inference (Hoffman et al. 2013), or with ``view="mode"``
    stepwise EM (Cappe & Moulines 2009).

    Minibatches are shuffled on the device in every epoch, the lanes of a fit share them, and the
    batch's term is scaled by N over its own number of rows, a short last batch included.

    Args:
        prior: the model; proper, save in the mode view.
        optimizer: an optax transformation such as ``optax.adam(1e-2)``; or, with
            ``learning_rate``, what makes one from a learning rate, such as ``optax.adam`` or
            ``functools.partial(optax.adam, b1=0.8)``; or `natural_gradient`.
        batch_size: rows in a minibatch; None looks at all of them in every iteration.
        learning_rate: traced, so that another one does not recompile (a transformation made
            beforehand does).
        view: ``"sample"`` by default; ``"expectation"`` by default for natural gradients, which
            have no sample view.
        n_draws: draws of the parameters per iteration, in the sample view.

    Raises:
        ValueError: for an improper prior where the bound needs a proper one, an unknown view, an
            optimiser that is none, ``batch_size < 1`` or ``n_draws < 1``.

    Example:
        >>> import jax, jaxgmm, optax
        >>> x = jax.random.normal(jax.random.key(0), (500, 2))
        >>> algorithm = jaxgmm.svi(
        ...     jaxgmm.default_prior(x, 2), optax.adam, batch_size=100, learning_rate=0.05
        ... )
        >>> result = jaxgmm.fit(jax.random.key(1), x, algorithm, n_restarts=4, max_iter=200)
        >>> result.states.objective.shape
        (4,)
    """
    prior = check_prior(prior)
    check_positive_int("n_draws", n_draws)
    if batch_size is not None:
        check_positive_int("batch_size", batch_size)
    natural = isinstance(optimizer, NaturalGradient)
    view = view or ("expectation" if natural else "sample")
    check_choice("view", view, VIEWS[1:] if natural else VIEWS)
    if view != "mode":
        check_proper(prior, "SVI")
    if natural:
        if learning_rate is not None:
            raise ValueError("give natural_gradient its step size itself, not learning_rate=.")
        return NaturalSVI(prior, optimizer, batch_size, view)
    if learning_rate is None:
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise ValueError(
                "optimizer must be an optax transformation such as optax.adam(1e-2), or "
                f"jaxgmm.natural_gradient(), but it is {optimizer!r}; to pass what makes one, "
                "such as optax.adam, give learning_rate= too."
            )
        return SVI(prior, None, optimizer, batch_size, view, n_draws)
    if not callable(optimizer):
        raise ValueError(
            "with learning_rate=, optimizer must make a transformation from a learning rate, such "
            f"as optax.adam, but it is {optimizer!r}."
        )
    rate = jnp.asarray(learning_rate, prior.dtype)
    return SVI(prior, rate, _Factory(optimizer), batch_size, view, n_draws)
