"""Stochastic inference by gradients: any of the three views, any optax optimiser."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._algorithms.natural import NaturalGradient, NaturalSVI
from jaxgmm._algorithms.optimizers import Factory, Optimizer
from jaxgmm._algorithms.stochastic import Memory, Stochastic, averaging_weight
from jaxgmm._estep.data import Data
from jaxgmm._lane.state import State
from jaxgmm._model.checks import check_has_mode, check_prior, check_proper
from jaxgmm._model.coordinates import coordinates_of, posterior_of
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import DIVERGENCES, Divergence, Expectation, Mode, Sample, View
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.checks import check_choice, check_positive_int
from jaxgmm._numerics.pytree import pytree, replace, static

ViewName = Literal["sample", "expectation", "mode"]


@pytree
class SVI(Stochastic):
    """See `svi`."""

    prior: Prior
    view: View
    learning_rate: Float[Array, ""] | None
    optimizer: Any = static()
    batch_size: int | None = static()
    average: bool = static()

    name = "SVI"

    @property
    def noisy(self) -> bool:
        return self.batch_size is not None or self.view.name == "sample"

    def transformation(self) -> Any:
        """The optax transformation; if the learning rate is traced, it is built with it."""
        return self.optimizer if self.learning_rate is None else self.optimizer(self.learning_rate)

    def remember(self, key: Array, shared_key: Array, posterior: Prior) -> Memory:
        coordinates = coordinates_of(posterior, self.view)
        return Memory(
            key=key,
            order_key=shared_key,
            coordinates=coordinates,
            optimizer_state=self.transformation().init(coordinates),
            average=coordinates if self.average else (),
        )

    def posterior(self, coordinates: Any, total: Array) -> Prior:
        """The posterior at given coordinates."""
        return posterior_of(self.prior, coordinates, total, self.view)

    def advance(self, state: State, data: Data) -> State:
        """One gradient step, in place of `expect` and `maximise`."""
        memory = state.memory
        key = jax.random.fold_in(memory.key, state.n_iter)

        def loss(coordinates: Any) -> tuple[Array, tuple[Array, Prior]]:
            q = self.posterior(coordinates, data.total)
            objective = self.view.objective(key, q, self.prior, data)
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


@usage("jaxgmm.svi(jaxgmm.default_prior(x, n_components=3), optax.adam(0.01))")
def svi(
    prior: Prior,
    optimizer: Any,
    batch_size: int | None = None,
    *,
    learning_rate: float | Callable[[Array], Array] | None = None,
    view: ViewName | None = None,
    n_draws: int = 1,
    divergence: Divergence = "closed_form",
    average: bool = False,
) -> SVI | NaturalSVI:
    """Stochastic inference: gradient steps by optax, or natural-gradient steps, on minibatches.

    An optax optimiser maximises the bound ``E[log p(x | theta)] - KL(q || prior)`` in unconstrained
    coordinates. The assignments are summed out (log-sum-exp over the components). The gradients
    depend on the view:

    - ``view="sample"``: from reparameterised draws of the parameters, with implicit gradients of
      the gamma variates (Kingma & Welling 2014; Figurnov et al. 2018);
    - ``view="expectation"``: CAVI's own bound, with exact gradients;
    - ``view="mode"``: the likelihood plus log prior of a point estimate (gradient EM).

    With ``optimizer=natural_gradient()`` each step mixes the conjugate update of a minibatch into
    the posterior: stochastic variational inference (Hoffman et al. 2013), or with ``view="mode"``
    stepwise EM (Cappe & Moulines 2009).

    Minibatches are shuffled on the device in every epoch, and the lanes of a fit share them. The
    term of a batch is scaled by N over the batch's own number of rows; so is a short last batch. A
    noisy objective is reported as an average over about a hundred iterations. For convergence its
    means over windows are compared, each window longer than the one before: a lane has converged
    only when their rise is within ``tol`` by two standard errors. If the noise hides the rise, the
    lane ends with MAX_ITERATIONS.

    Args:
        prior: the model; a proper prior, except in the mode view or with ``divergence="sampled"``.
        optimizer: an optax transformation such as ``optax.adam(1e-2)``; or, with
            ``learning_rate``, a function from a learning rate to such a transformation, such as
            ``optax.adam`` or ``functools.partial(optax.adam, b1=0.8)``; or `natural_gradient`.
        batch_size: rows in a minibatch; None takes all rows in every iteration.
        learning_rate: a number, or an optax schedule (a function of the iteration) such as
            ``optax.cosine_decay_schedule(0.05, 2000)``. A number is traced, so that another number
            does not compile again. (A change inside a finished ``optimizer`` does.)
        view: ``"sample"`` by default; ``"expectation"`` by default for natural gradients, which
            have no sample view.
        n_draws: draws of the parameters per iteration, in the sample view.
        divergence: how the sample view computes the divergence of q from the prior.
            ``"closed_form"`` is exact. ``"sampled"`` is the mean of ``log q - log prior`` at the
            draws; it also works for an improper prior, up to a constant in the objective.
            ``"sticking_the_landing"`` is the same with a gradient through the draws only. The
            variance of this gradient vanishes where q is the exact posterior (Roeder, Wu &
            Duvenaud 2017).
        average: whether the estimate is the running average of the iterates instead of the last
            iterate (Polyak & Juditsky 1992), with weights that forget the start (Shamir & Zhang
            2013). The average is taken in unconstrained coordinates, or in natural parameters for
            natural gradients. The objective stays that of the iterates; `elbo` and `sampled_elbo`
            give that of the average.

    Raises:
        ValueError: for an improper prior where the bound needs a proper one, weights without a
            mode in the mode view, an unknown view or divergence, a divergence that the view does
            not have, an ``optimizer`` of another kind, ``batch_size < 1`` or ``n_draws < 1``.

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
    prior = check_prior(prior, "svi")
    check_positive_int("n_draws", n_draws)
    if batch_size is not None:
        check_positive_int("batch_size", batch_size)
    views = {
        "sample": Sample(n_draws, divergence),
        "expectation": Expectation(),
        "mode": Mode(jnp.zeros((), prior.dtype)),
    }
    optimizer = optimizer.given if isinstance(optimizer, Optimizer) else optimizer
    natural = isinstance(optimizer, NaturalGradient)
    view = view or ("expectation" if natural else "sample")
    check_choice("view", view, list(views)[1:] if natural else views)
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
        return NaturalSVI(prior, views[view], optimizer, batch_size, average)
    rate = None
    if learning_rate is None:
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise ValueError(
                "optimizer must be an optax transformation such as optax.adam(1e-2), or "
                f"jaxgmm.natural_gradient(), but it is {described(optimizer)}; to pass what makes "
                "one, such as optax.adam, give learning_rate= too."
            )
    elif not callable(optimizer):
        raise ValueError(
            "with learning_rate=, optimizer must make a transformation from a learning rate, such "
            f"as optax.adam, but it is {described(optimizer)}."
        )
    elif callable(learning_rate):
        optimizer = optimizer(learning_rate)
    else:
        rate = jnp.asarray(learning_rate, prior.dtype)
    held = Optimizer(optimizer) if rate is None else Factory(optimizer)
    return SVI(prior, views[view], rate, held, batch_size, average)
