"""Calls that a newcomer gets wrong, each answered with a sentence that has the right one in it."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import jaxgmm
import jaxgmm.plot
from jaxgmm import Mixture, Prior, Result
from jaxgmm._lane.state import initial_state
from jaxgmm.views import Expectation, Mode

KEY = jax.random.key(0)
x = np.random.default_rng(0).normal(size=(40, 2))
flat, prior = jaxgmm.flat_prior(3, 2), jaxgmm.default_prior(x, 3)
em, cavi = jaxgmm.em(flat), jaxgmm.cavi(prior)
state, posterior = initial_state(flat, prior, Mode()), initial_state(prior, prior, Expectation())
lanes = jax.tree.map(lambda a: jnp.stack([a, a]), state)
result = Result(em, lanes, None, False, ())
m = Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
line = Mixture(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))
frame = pd.DataFrame({"length": x[:, 0], "species": ["a"] * 40})
svi, select, default = jaxgmm.svi, jaxgmm.select, jaxgmm.default_prior

pytestmark = pytest.mark.usefixtures("no_type_checker", "nothing_is_traced")


def fit(*args: Any, **kwargs: Any) -> Any:
    return jaxgmm.fit(*args, **kwargs)


def row(changes: float) -> np.ndarray:
    out = x.copy()
    out[3, 1] = changes
    return out


# What is called, and what the answer says: what came, and the right call.
FIT = "call jaxgmm.fit(key, x, algorithm)"
FITTED = "takes a fit, the result of jaxgmm.fit(key, x, algorithm) or its state result.best"
PRIOR = "(jaxgmm.default_prior(x, n_components=3))"
LANES = "this one has 2 lanes; take result.best"
CALLS: dict[str, tuple[Callable[[], Any], str, str]] = {
    # keys
    "an int as key": (lambda: fit(0, x, em), "jax.random.key(0), but it is 0", FIT),
    "none as key": (lambda: fit(None, x, em), "jax.random.key(0), but it is None", FIT),
    "many keys": (lambda: fit(jax.random.split(KEY), x, em), "an array of shape (2,)", FIT),
    "no key": (lambda: fit(x, em), "missing a required argument: 'algorithm'", "fit(key, x, alg"),
    "x, then the key": (lambda: fit(x, KEY, em), "jax.random.key(0), but it is an array", FIT),
    "select's, too": (
        lambda: select(x, KEY),
        "PRNG key",
        "call jaxgmm.select(key, x, range(1, 11)",
    ),
    "init's, too": (lambda: em.init(0, x), "PRNG key", "call algorithm.init(key, x)"),
    "sample without": (lambda: jaxgmm.sample(m, 10), "'n'", "as jaxgmm.sample(key, result, n)"),
    "sample, swapped": (lambda: jaxgmm.sample(KEY, 10, m), FITTED, "but it was given 10"),
    "sample, int": (lambda: jaxgmm.sample(0, m, 10), "jax.random.key(0)", "sample(key, result, n)"),
    "scores without": (
        lambda: jaxgmm.outlier_scores(m, x),
        "'x'",
        "outlier_scores(key, result, x)",
    ),
    # algorithms and priors
    "K in place of em": (lambda: fit(KEY, x, 3), "jaxgmm.em" + PRIOR, "but it is 3; " + FIT),
    "a prior in place": (lambda: fit(KEY, x, prior), "jaxgmm.em(prior), but it is a Prior", FIT),
    "em itself": (lambda: fit(KEY, x, jaxgmm.em), "function em itself, which was not called", FIT),
    "the class EM": (lambda: fit(KEY, x, jaxgmm.EM), "but it is the class EM itself", FIT),
    "its name": (lambda: fit(KEY, x, "em"), "such as jaxgmm.em(", "but it is 'em'"),
    "em(3)": (lambda: jaxgmm.em(3), "it was given 3", "call jaxgmm.em" + PRIOR),
    "em(x)": (lambda: jaxgmm.em(x, 3), "an array of shape (40, 2)", "call jaxgmm.em" + PRIOR),
    "em()": (lambda: jaxgmm.em(), "missing a required argument: 'prior'", "jaxgmm.em" + PRIOR),
    "em(em)": (lambda: jaxgmm.em(em), "it was given an EM", "call jaxgmm.em" + PRIOR),
    "em of no call": (lambda: jaxgmm.em(jaxgmm.flat_prior), "which was not called", PRIOR),
    "em of components": (lambda: jaxgmm.em(prior.components), "a NormalWishart", PRIOR),
    "a prior, swapped": (
        lambda: jaxgmm.em(Prior(prior.components, prior.weights)),
        "a prior is jaxgmm.Prior(weights, components)",
        "its components are a Dirichlet",
    ),
    "cavi(3)": (lambda: jaxgmm.cavi(3), "it was given 3", "call jaxgmm.cavi" + PRIOR),
    "cavi(flat)": (lambda: jaxgmm.cavi(flat), "proper prior", "use jaxgmm.default_prior(x, n_comp"),
    "squarem(prior)": (lambda: jaxgmm.squarem(prior), "a Prior", "call jaxgmm.squarem(jaxgmm.em(p"),
    "annealed(em)": (
        lambda: jaxgmm.annealed(jaxgmm.em),
        "not called",
        "annealed(jaxgmm.em(prior))",
    ),
    "svi(prior)": (lambda: svi(prior), "'optimizer'", "jaxgmm.svi" + PRIOR[:-1]),
    "svi, a rate": (lambda: svi(prior, 0.01), "such as optax.adam(1e-2)", "but it is 0.01"),
    "svi, no call": (
        lambda: svi(prior, jaxgmm.natural_gradient),
        "natural_gradient()",
        "not called",
    ),
    "svi, a name": (lambda: svi(prior, "adam"), "such as optax.adam(1e-2)", "but it is 'adam'"),
    "svi, flat": (lambda: svi(flat, optax.adam(0.1)), "proper prior", "default_prior(x, n_compon"),
    "default, swapped": (
        lambda: default(3, x),
        "array of shape (40, 2)",
        "default_prior(x, n_comp",
    ),
    "default, no K": (lambda: default(x), "'n_components'", "default_prior(x, n_components=3)"),
    "K is 0": (
        lambda: default(x, 0),
        "an integer of at least 1, but it is 0",
        "default_prior(x, n",
    ),
    "K is 3.0": (
        lambda: default(x, 3.0),
        "an integer of at least 1, but it is 3.0",
        "prior(x, n_c",
    ),
    "flat of x": (
        lambda: jaxgmm.flat_prior(x, 3),
        "an array",
        "flat_prior(n_components, n_features)",
    ),
    "flat without D": (lambda: jaxgmm.flat_prior(3), "'n_features'", "n_features=x.shape[1])"),
    "Full": (
        lambda: default(x, 3, "Full"),
        "covariance='Full' is not known",
        "did you mean 'full'?",
    ),
    "diagonal": (lambda: default(x, 3, "diagonal"), "'diagonal' is not", "did you mean 'diag'?"),
    "FULL": (lambda: jaxgmm.flat_prior(3, 2, "FULL"), "Known are 'full', 'tied'", "mean 'full'?"),
    "weights of rows": (lambda: default(x, 3, weights=np.ones(40)), "weights, an", "sample_weight"),
    # keywords
    "covariance_type": (
        lambda: default(x, 3, covariance_type="full"),
        "default_prior() has no keyword covariance_type",
        'jaxgmm.default_prior(x, n_components, covariance="full")',
    ),
    "n_components": (
        lambda: fit(KEY, x, n_components=3),
        "K is that of the prior, jaxgmm.default_prior(x, n_components)",
        "as jaxgmm.fit(key, x, algorithm)",
    ),
    "n_init": (lambda: fit(KEY, x, em, n_init=9), "no keyword n_init", "it is n_restarts, of"),
    "random_state": (lambda: fit(x, em, random_state=0), "a key comes first", "jax.random.key(0)"),
    "em's max_iter": (lambda: jaxgmm.em(flat, max_iter=9), "no keyword", "max_iter of jaxgmm.fit"),
    "fit's reg_covar": (
        lambda: fit(KEY, x, em, reg_covar=1),
        "no key",
        "jaxgmm.em(prior, reg_covar)",
    ),
    "fit's weights": (
        lambda: fit(KEY, x, em, weights=x),
        "no keyword weights",
        "are sample_weight",
    ),
    "nearly right": (
        lambda: fit(KEY, x, em, n_restart=9),
        "n_restart:",
        "did you mean 'n_restarts'",
    ),
    "select's": (lambda: select(KEY, x, covariance_type="full"), "no key", 'covariance="full"'),
    # samples
    "3-d": (
        lambda: fit(KEY, x[None], em),
        "2-d.* its shape is (1, 40, 2)",
        "x.reshape(len(x), -1)",
    ),
    "1-d": (lambda: fit(KEY, x[:, 0], em), "2-d.* its shape is (40,)", "pass x[:, None]"),
    "transposed": (lambda: fit(KEY, x.T, em), "x has 40 features, but the prior has 2", "pass x.T"),
    "NaN": (
        lambda: fit(KEY, row(np.nan), em),
        "in rows 3, columns 1",
        "pass jaxgmm.Rows",
    ),
    "infinity": (lambda: fit(KEY, row(np.inf), em), "in rows 3, columns 1", "drop or impute them"),
    "empty": (lambda: fit(KEY, x[:0], em), "x is empty", "(0, 2)"),
    "strings": (lambda: fit(KEY, [["1", "2"]], em), "real numbers", "np.asarray(x, float)"),
    "ragged": (
        lambda: fit(KEY, [[1.0], [2.0, 3.0]], em),
        "(N, D)",
        "rows are of different lengths",
    ),
    "a frame": (
        lambda: fit(KEY, frame, em),
        "column 'species' of x is",
        "drop(columns=['species'])",
    ),
    "sparse": (lambda: fit(KEY, csr_matrix(x), em), "x is sparse", "pass x.toarray()"),
    "nothing": (lambda: fit(KEY, None, em), "samples by features (N, D)", "it is None"),
    "few rows": (
        lambda: fit(KEY, x[:2], em),
        "2 rows, fewer than the 3 comp",
        "fit fewer components",
    ),
    "another D": (
        lambda: fit(KEY, x[:, :1], em),
        "1 features, but the prior has 2",
        "default_prior(x",
    ),
    "D of a fit": (
        lambda: jaxgmm.predict(state, x[:, :1]),
        "the fit has 2",
        "the columns of x that it",
    ),
    "few weights": (
        lambda: fit(KEY, x, em, sample_weight=x[:3, 0]),
        "(40,)",
        "a weight for each row",
    ),
    "negative ones": (
        lambda: fit(KEY, x, em, sample_weight=-np.ones(40)),
        "rows 0,",
        "non-negative",
    ),
    "'balanced'": (lambda: fit(KEY, x, em, sample_weight="balanced"), "(40,)", "it is 'balanced'"),
    # numbers and names
    "tol": (lambda: fit(KEY, x, em, tol=-1), "tol must be 0 or more", "but it is -1"),
    "no tol": (lambda: fit(KEY, x, em, tol=None), "tol must be a number", "but it is None"),
    "max_iter": (lambda: fit(KEY, x, em, max_iter=0), "an integer of at least 1", "but it is 0"),
    "n_restarts": (lambda: fit(KEY, x, em, 0), "n_restarts must be an integer", "but it is 0"),
    "2.5 lanes": (lambda: fit(KEY, x, em, 2.5), "n_restarts must be an integer", "but it is 2.5"),
    "init": (lambda: fit(KEY, x, em, init="kmeans"), "'kmeans' is not known", "mean 'k-means'?"),
    "init of points": (
        lambda: fit(KEY, x, em, init=x[:3]),
        '{"means": means}',
        "an array of shape",
    ),
    "select of 5": (
        lambda: select(KEY, x, 5),
        "it is 5",
        "call jaxgmm.select(key, x, range(1, 6))",
    ),
    "select of em": (lambda: select(KEY, x, em), "it is an EM", "select(key, x, range(1, 11))"),
    "select by em": (
        lambda: select(KEY, x, [1], algorithm=em),
        "it is an EM",
        "lambda k, c: jaxgmm.",
    ),
    "by no call": (lambda: select(KEY, x, [1], algorithm=jaxgmm.em), "not called", "lambda k, c:"),
    "BIC": (
        lambda: select(KEY, x, [1], criterion="BIC"),
        "'BIC' is not known",
        "did you mean 'bic'",
    ),
    "no covariance": (lambda: select(KEY, x, [1], None), "it is None", '("full", "diag")'),
    # after the fit
    "predict, swapped": (
        lambda: jaxgmm.predict(x, state),
        FITTED,
        "given an array of shape (40, 2)",
    ),
    "predict of em": (lambda: jaxgmm.predict(em, x), FITTED, "but it was given an EM"),
    "predict of a prior": (lambda: jaxgmm.predict(prior, x), FITTED, "but it was given a Prior"),
    "predict without x": (lambda: jaxgmm.predict(state), "'x'", "as jaxgmm.predict(result, x)"),
    "lanes": (lambda: jaxgmm.log_prob(lanes, x), "log_prob takes the state of one lane", LANES),
    "lanes' mixture": (lambda: jaxgmm.mixture(lanes), "mixture takes the state of one", LANES),
    "lanes' order": (lambda: jaxgmm.order_components(lanes), "the state of one lane", LANES),
    "lanes' quantile": (lambda: jaxgmm.quantile(lanes, 0.5, 0), "the state of one lane", LANES),
    "bic of a mixture": (lambda: jaxgmm.bic(m, x), "n_parameters=5", "jaxgmm.bic(result, x)"),
    "elbo of a mixture": (lambda: jaxgmm.elbo(m, x), FITTED, "but it was given a Mixture"),
    "draws after em": (
        lambda: jaxgmm.sample_posterior(KEY, state, 9),
        "needs a posterior, but this state is a point estimate",
        "fit it with jaxgmm.cavi",
    ),
    "no feature": (lambda: jaxgmm.cdf(m, 0.0), "there are 2 features", "feature=0 to 1"),
    "algebra of a fit": (
        lambda: jaxgmm.algebra.marginal(result, [0]),
        "expected a jaxgmm.Mixture, but got a Result",
        "jaxgmm.mixture(result)",
    ),
    "estep of a state": (lambda: jaxgmm.estep(x, state), "given a State", "estep(x, state.potent"),
    "fixed_point": (lambda: jaxgmm.fixed_point(prior, state, x), "it is a Prior", "em(prior)"),
    # run and transformations
    "run of one lane": (lambda: jaxgmm.run(em, state, x), "states of R lanes", "lambda a: a[None]"),
    "run of a result": (lambda: jaxgmm.run(em, result, x), "or result.states", "given a Result"),
    "run, swapped": (lambda: jaxgmm.run(lanes, em, x), "a State", "run(algorithm, states, x)"),
    "run without x": (lambda: jaxgmm.run(em, lanes), "'x'", "as jaxgmm.run(algorithm, states, x)"),
    "jit": (
        lambda: jax.jit(lambda key, x: fit(key, x, em).states)(KEY, x),
        "cannot be traced by jax.jit",
        "call jaxgmm.run(algorithm, states, x) there",
    ),
    "jit without tracers": (lambda: jax.jit(lambda: fit(KEY, x, em).states)(), "traced", "run(alg"),
    "jit of fit": (lambda: jax.jit(jaxgmm.fit)(KEY, x, em), "cannot be traced", "jaxgmm.run("),
    "vmap": (
        lambda: jax.vmap(lambda key: fit(key, x, em).states)(jax.random.split(KEY)),
        "cannot be traced by jax.jit, jax.vmap",
        "jax.vmap(algorithm.init, (0, None))(keys, x)",
    ),
    "grad": (lambda: jax.grad(lambda x: fit(KEY, x, em))(x), "jax.grad", "jaxgmm.fixed_point for"),
    "jit of select": (lambda: jax.jit(lambda k: select(k, x))(KEY), "traced", "outside of it"),
    # files and pictures
    "save, swapped": (
        lambda: jaxgmm.save(result, "fit"),
        "a Result",
        'save("fit.safetensors", result',
    ),
    "save without path": (lambda: jaxgmm.save(result), "'obj'", 'save("fit.safetensors", result)'),
    "load of a result": (lambda: jaxgmm.load(result), "a Result", 'load("fit.safetensors")'),
    "save of an object": (lambda: jaxgmm.save("x.fit", object()), "object", "fits, priors, algor"),
    "picture of x": (lambda: jaxgmm.plot.points(x, m), "points " + FITTED, "given an array"),
    "picture without x": (lambda: jaxgmm.plot.points(m), "'x'", "as jaxgmm.plot.points(result, x)"),
    "picture of lanes": (lambda: jaxgmm.plot.ellipses(lanes), "the state of one lane", LANES),
    "3-d picture": (lambda: jaxgmm.plot.density(m, (0, 1, 2)), "2 different", "got (0, 1, 2)"),
    "1-d picture": (
        lambda: jaxgmm.plot.ellipses(line),
        "shows two features, but the model has one",
        "jaxgmm.plot.histogram(result, x)",
    ),
    "weights' key": (lambda: jaxgmm.plot.weights(m), "'model'", "jaxgmm.plot.weights(key, result)"),
    "traces of a state": (
        lambda: jaxgmm.plot.traces(state),
        "Result of jaxgmm.fit(key, x",
        "State",
    ),
    "no selection": (lambda: jaxgmm.plot.selection(result), "jaxgmm.select(key, x, ra", "a Result"),
    "no shape": (
        lambda: jaxgmm.compile_for(em, x),
        "n_samples",
        "compile_for(algorithm, n_samples)",
    ),
    "a mesh": (
        lambda: fit(KEY, x, em, mesh=2),
        "jax.sharding.Mesh",
        'jax.make_mesh((2,), ("data",))',
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_the_answer_has_the_right_call(case: str):
    call, *parts = CALLS[case]
    # a missing or unknown argument is Python's TypeError
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    said = str(caught.value)
    for part in (p for words in parts for p in words.split(".* ")):
        assert part in said, said
    assert len(said) <= 330, "about three lines"
    unknown = "argument" in said or "keyword" in said
    assert isinstance(caught.value, TypeError if unknown else ValueError)


NAMES = {
    "means_": "jaxgmm.mixture(result).means",
    "covariances": "jaxgmm.mixture(result).covariances",
    "predict": "jaxgmm.predict(result, x)",
    "score_samples": "jaxgmm.log_prob(result, x)",
}


@pytest.mark.parametrize("name", NAMES)
def test_attributes_of_scikit_learn_are_answered(name: str):
    with pytest.raises(AttributeError) as caught:
        getattr(result, name)
    assert f"use {NAMES[name]}" in str(caught.value)
    assert not hasattr(result, "anything")


def test_files_that_are_none(tmp_path: Path):
    (tmp_path / "fit.pkl").write_bytes(pickle.dumps({"means": 1}))
    with pytest.raises(ValueError, match=r"fit\.pkl has no header of jaxgmm\.save"):
        jaxgmm.load(tmp_path / "fit.pkl")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        jaxgmm.load(os.fspath(tmp_path / "nowhere"))


def test_old_keys_and_results_are_no_mistakes():
    weights = replace(state, posterior=posterior.posterior)
    for key in (KEY, jax.random.PRNGKey(0), jax.random.key(0, impl="rbg")):
        assert jaxgmm.sample(key, line, 2)[0].shape == (2, 1)
    assert jaxgmm.mixture(result) == jaxgmm.mixture(weights)
