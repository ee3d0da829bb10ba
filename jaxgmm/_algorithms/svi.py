"""Stochastic inference by gradients: any of the three views, any optax optimiser."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._algorithms.natural import NaturalGradient, NaturalSVI
from jaxgmm._algorithms.stochastic import Memory, Stochastic, averaging_weight, empty_trace
from jaxgmm._estep.estep import Data, log_evidence_on
from jaxgmm._lane.state import State, initial_state
from jaxgmm._model.coordinates import coordinates_of, posterior_of
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import (
    Draw,
    draw,
    kl_divergence,
    log_density,
    view_penalty,
    view_potentials,
)
from jaxgmm._numerics.checks import (
    check_choice,
    check_has_mode,
    check_positive_int,
    check_prior,
    check_proper,
)
from jaxgmm._numerics.pytree import pytree, replace, static

View = Literal["sample", "expectation", "mode"]
VIEWS: tuple[View, ...] = ("sample", "expectation", "mode")
Divergence = Literal["closed_form", "sampled", "sticking_the_landing"]
DIVERGENCES: tuple[Divergence, ...] = ("closed_form", "sampled", "sticking_the_landing")


@pytree
class SVI(Stochastic):
    """See `svi`."""

    prior: Prior
    learning_rate: Float[Array, ""] | None
    optimizer: Any = static()
    batch_size: int | None = static()
    objective_view: View = static()
    n_draws: int = static()
    divergence: Divergence = static()
    average: bool = static()

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
            average=coordinates if self.average else (),
        )
        return initial_state(self.prior, posterior, self.view, memory=memory)

    def coordinates(self, q: Prior) -> Any:
        """Unconstrained coordinates of a posterior."""
        return coordinates_of(q, mode=self.view == "mode")

    def posterior(self, coordinates: Any, total: Array) -> Prior:
        """The posterior at given coordinates."""
        return posterior_of(self.prior, coordinates, total, mode=self.view == "mode")

    # --- one iteration ---

    def bound(self, key: Array, q: Prior, data: Data) -> Array:
        """The objective at ``q``, estimated from draws in the sample view."""
        if self.objective_view != "sample":
            evidence = log_evidence_on(data, view_potentials(self.view, q))
            return data.scale * evidence - view_penalty(self.view, q, self.prior)
        draws = jax.vmap(draw, (0, None))(jax.random.split(key, self.n_draws), q)
        potentials = jax.vmap(Draw.potentials)(draws)
        evidence = jnp.mean(jax.vmap(log_evidence_on, (None, 0))(data, potentials))
        return data.scale * evidence - self.penalty(q, draws)

    def penalty(self, q: Prior, draws: Draw) -> Array:
        """``KL(q || prior)``, or the mean of ``log q - log prior`` at draws."""
        if self.divergence == "closed_form":
            return kl_divergence(q, self.prior)
        if self.divergence == "sticking_the_landing":
            q = lax.stop_gradient(q)
        ratio = jax.vmap(log_density, (None, 0))
        return jnp.mean(ratio(q, draws) - ratio(self.prior, draws))

    def advance(self, state: State, data: Data) -> State:
        memory = state.memory
        key = jax.random.fold_in(memory.key, state.n_iter)

        def loss(coordinates: Any) -> tuple[Array, tuple[Array, Prior]]:
            q = self.posterior(coordinates, data.total)
            objective = self.bound(key, q, data)
            return -objective / data.total, (objective, q)

        gradient, (objective, q) = jax.grad(loss, has_aux=True)(memory.coordinates)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes float and integer scalars
            updates, optimizer_state = self.transformation().update(
                gradient, memory.optimizer_state, memory.coordinates
            )
        coordinates = jax.tree.map(lambda a, b: a + b.astype(a.dtype), memory.coordinates, updates)
        if self.average:
            share = averaging_weight(state.n_iter, self.prior.dtype)
            average = jax.tree.map(
                lambda a, b: a + share * (b - a), memory.average, memory.coordinates
            )
            memory = replace(memory, average=average)
            q = self.posterior(average, data.total)
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
    learning_rate: float | Callable[[Array], Array] | None = None,
    view: View | None = None,
    n_draws: int = 1,
    divergence: Divergence = "closed_form",
    average: bool = False,
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
    batch's term is scaled by N over its own number of rows, a short last batch included. A noisy
    objective is reported as an average over about a hundred iterations, and a lane has converged
    only when the rise of its means over ever longer windows is within ``tol`` by two standard
    errors; where the noise hides the rise, it ends with MAX_ITERATIONS.

    Args:
        prior: the model; proper, save in the mode view or with ``divergence="sampled"``.
        optimizer: an optax transformation such as ``optax.adam(1e-2)``; or, with
            ``learning_rate``, what makes one from a learning rate, such as ``optax.adam`` or
            ``functools.partial(optax.adam, b1=0.8)``; or `natural_gradient`.
        batch_size: rows in a minibatch; None looks at all of them in every iteration.
        learning_rate: a number is traced, so that another one does not recompile (a
            transformation made beforehand does); or an optax schedule, a function of the
            iteration, such as ``optax.cosine_decay_schedule(0.05, 2000)``.
        view: ``"sample"`` by default; ``"expectation"`` by default for natural gradients, which
            have no sample view.
        n_draws: draws of the parameters per iteration, in the sample view.
        divergence: of q from the prior, in the sample view: ``"closed_form"``; ``"sampled"``, the
            mean of ``log q - log prior`` at the draws, which an improper prior has too (it then
            counts without a constant, and so does the objective); or
            ``"sticking_the_landing"``, the same with the gradient through the draws alone, whose
            variance vanishes where q is the exact posterior (Roeder, Wu & Duvenaud 2017).
        average: whether the estimate is the running average of the iterates rather than the last
            one (Polyak & Juditsky 1992), with weights that forget the start (Shamir & Zhang 2013):
            in unconstrained coordinates, or in natural parameters for natural gradients. The
            objective stays that of the iterates; `elbo` and `sampled_elbo` give the average's.

    Raises:
        ValueError: for an improper prior where the bound needs a proper one, weights without a
            mode in the mode view, an unknown view or divergence, a divergence that the view does
            not have, an optimiser that is none, ``batch_size < 1`` or ``n_draws < 1``.

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
    check_choice("divergence", divergence, DIVERGENCES)
    if divergence != "closed_form" and view != "sample":
        raise ValueError(
            f"divergence={divergence!r} is of draws, which the {view} view has none of; leave it "
            'out, or use view="sample" with an optax optimiser.'
        )
    if view == "mode":
        check_has_mode(prior, "the mode view")
    elif divergence == "closed_form":
        check_proper(prior, "SVI", 'or the sample view with divergence="sampled"')
    if natural:
        if learning_rate is not None:
            raise ValueError("give natural_gradient its step size itself, not learning_rate=.")
        return NaturalSVI(prior, optimizer, batch_size, view, average)
    rate = None
    if learning_rate is None:
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise ValueError(
                "optimizer must be an optax transformation such as optax.adam(1e-2), or "
                f"jaxgmm.natural_gradient(), but it is {optimizer!r}; to pass what makes one, "
                "such as optax.adam, give learning_rate= too."
            )
    elif not callable(optimizer):
        raise ValueError(
            "with learning_rate=, optimizer must make a transformation from a learning rate, such "
            f"as optax.adam, but it is {optimizer!r}."
        )
    elif callable(learning_rate):
        optimizer = optimizer(learning_rate)
    else:
        rate, optimizer = jnp.asarray(learning_rate, prior.dtype), _Factory(optimizer)
    return SVI(prior, rate, optimizer, batch_size, view, n_draws, divergence, average)
