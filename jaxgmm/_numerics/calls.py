"""Wrong calls: what came, in a few words, and the right call beside it."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")
T = TypeVar("T")

# What takes the place of a keyword of scikit-learn's, or of one that belongs to another function.
_ELSEWHERE = {
    "X": "the samples are x",
    "n_components": "K is that of the prior, jaxgmm.default_prior(x, n_components)",
    "covariance_type": "the covariances are those of the prior, "
    'jaxgmm.default_prior(x, n_components, covariance="full")',
    "covariance": "the covariances are those of the prior, "
    'jaxgmm.default_prior(x, n_components, covariance="full")',
    "n_init": "it is n_restarts, of jaxgmm.fit",
    "n_restarts": "it is n_restarts of jaxgmm.fit",
    "max_iter": "it is max_iter of jaxgmm.fit",
    "tol": "it is tol of jaxgmm.fit",
    "random_state": "a key comes first, jax.random.key(0)",
    "seed": "a key comes first, jax.random.key(0)",
    "rng": "a key comes first, jax.random.key(0)",
    "reg_covar": "it is that of the algorithm, jaxgmm.em(prior, reg_covar)",
    "init_params": 'it is init of jaxgmm.fit, such as init="k-means++"',
    "means_init": 'it is init={"means": means} of jaxgmm.fit',
    "weights_init": 'it is init={"parameters": (weights, means, covariances)} of jaxgmm.fit',
    "precisions_init": 'it is init={"parameters": (weights, means, covariances)} of jaxgmm.fit',
    "warm_start": "it is init=result.best, of jaxgmm.fit",
    "verbose": "it is progress=True, of jaxgmm.fit",
    "weight_concentration_prior_type": "it is that of the prior, "
    'jaxgmm.default_prior(x, n_components, weights="dirichlet_process")',
    "weights": "weights of the samples are sample_weight",
    "sample_weights": "it is sample_weight",
    "batch_size": "it is batch_size of jaxgmm.svi",
    "learning_rate": "it is learning_rate of jaxgmm.svi",
    "n_samples": "it is n",
}


def described(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        shown = repr(value.item() if isinstance(value, np.generic) else value)
        return shown if len(shown) <= 40 else f"{shown[:37]}..."
    if is_key(value):
        return "a PRNG key"
    if isinstance(value, np.ndarray | jax.Array | Tracer):
        return f"an array of shape {tuple(value.shape)}"
    if inspect.isroutine(value):
        return f"the function {value.__name__} itself, which was not called"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' or name == 'SVI' else 'a'} {name}"


def is_key(value: Any) -> bool:
    """Whether it is a PRNG key, of the new kind or of the old one."""
    if not isinstance(value, np.ndarray | jax.Array | Tracer):
        return False
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.ndim == 0
    return value.dtype == np.uint32 and value.ndim == 1


def near(value: Any, names: Iterable[str]) -> str:
    """A question whether a similar name was meant; empty without one."""
    if not isinstance(value, str):
        return ""
    found = difflib.get_close_matches(value.lower(), list(names), 1, cutoff=0.55)
    return f"did you mean {found[0]!r}? " if found else ""


def usage(call: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: arguments that a function does not take are answered with the right call.

    Where it has a parameter ``key``, what is given for it must be a PRNG key.

    Args:
        call: the right call, such as ``"jaxgmm.sample(key, state, n)"``.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        name = call[: call.index("(")].removeprefix("jaxgmm.")

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                why = _unknown(name, signature, kwargs) or f"{name}() {error}"
                raise TypeError(f"{why}; call it as {call}.") from None
            if "key" in given and not is_key(given["key"]):
                raise ValueError(
                    f"key must be a PRNG key, such as jax.random.key(0), but it is "
                    f"{described(given['key'])}; call {call}."
                )
            return function(*args, **kwargs)

        return checked

    return decorate


def _unknown(name: str, signature: inspect.Signature, keywords: Iterable[str]) -> str:
    """On the first keyword that a function does not have; empty without one."""
    for keyword in keywords:
        if keyword not in signature.parameters:
            known = [n for n in signature.parameters if n != "self"]
            hint = _ELSEWHERE.get(keyword) or near(keyword, known).removesuffix("? ")
            return f"{name}() has no keyword {keyword}" + (f": {hint}" if hint else "")
    return ""
