"""Selection: the right criterion, the right model, and few programs."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DATA, clusters
from counting import compiled

import jaxgmm
from jaxgmm._estep.padded import padded_size

FAITHFUL = np.loadtxt(DATA / "faithful.csv", delimiter=",", skiprows=1)
KEY = jax.random.key(0)
x = clusters(n=120)


def select(n_components: Any = range(1, 4), covariance: Any = "full", **options: Any):
    given = {"n_restarts": 4, "max_iter": 200, **options}
    return jaxgmm.select(KEY, given.pop("x", x), n_components, covariance, **given)


@pytest.mark.slow
def test_old_faithful():
    selection = jaxgmm.select(KEY, FAITHFUL, range(1, 10), tol=1e-9)
    assert (selection.covariance, selection.n_components) == ("tied", 3)
    assert abs(selection.table["bic"].min() - 2314.2957) < 1e-4
    assert "[2314.2957]" in selection.summary()


@pytest.mark.slow
def test_every_criterion_is_that_of_the_fit_behind_the_row():
    compiled.clear()
    selection = select((1, 3), ("full", "tied"))
    # the starts, the loop, the moves and the scores, whatever the number of K; the starts' labels
    # are those of every covariance
    of_each = ("random_lanes", "advance_lanes", "moved_lanes", "_scores")
    expected = sorted(f"jit({name})" for name in ("_labels", *of_each, *of_each))
    assert sorted(name for name in compiled if name in expected) == expected
    compiled.clear()
    select((2, 3), ("full", "tied"), tol=1e-5)
    assert [name for name in compiled if name in expected] == []
    table = selection.table
    assert table["covariance"].tolist() == ["full"] * 2 + ["tied"] * 2
    assert table["n_components"].tolist() == [1, 3, 1, 3]
    for row, state in enumerate(selection.states):
        assert state.posterior.components.mean.shape == (table["n_components"][row], 2)
        for name in ("bic", "aic", "icl"):
            expected = getattr(jaxgmm, name)(state, x)
            np.testing.assert_allclose(table[name][row], expected, rtol=1e-9)
        # at tol the objective is within an iteration of the log-likelihood
        gap = table["log_likelihood"][row] - state.objective
        assert 0 <= gap + 1e-9 < 1e-6 * len(x)
    best = selection.best
    assert selection.table["bic"][selection.best_index] == np.nanmin(table["bic"])
    again = jax.jit(jaxgmm.em(best.prior).step)(best, x)
    np.testing.assert_allclose(again.objective, best.objective, rtol=1e-6)


def test_elbo_is_the_evidence_of_one_component_and_picks_three():
    selection = select(range(1, 5), "diag", criterion="elbo", tol=1e-8)
    assert selection.n_components == 3
    one = selection.states[0]
    assert one.view.name == "expectation"
    np.testing.assert_allclose(selection.table["elbo"][0], one.objective)
    plain = jaxgmm.cavi(one.prior)
    state = plain.init(KEY, x, {"labels": jnp.zeros(len(x), int)})
    np.testing.assert_allclose(jax.jit(plain.step)(state, x).objective, one.objective, rtol=1e-10)
    # one prior for all K
    priors = [s.prior.components for s in selection.states]
    assert all(np.array_equal(p.rate[0], priors[0].rate[0]) for p in priors)


def test_cv_is_the_mean_log_density_of_held_out_samples():
    selection = select((1, 2), "diag", criterion="cv", n_folds=4, tol=1e-8)
    noise = jax.random.uniform(jax.random.fold_in(KEY, 1), (padded_size(len(x)),))
    order = np.argsort(np.asarray(noise)[: len(x)])
    fold = np.empty(len(x), int)
    fold[order] = np.arange(len(x)) % 4
    data, density = np.asarray(x), np.empty(len(x))
    for i in range(4):
        train, test = data[fold != i], data[fold == i]
        z = (test - train.mean(0)) / train.std(0)
        log_scale = np.log(train.std(0)).sum() + math.log(2 * math.pi)
        density[fold == i] = -0.5 * (z**2).sum(1) - log_scale
    np.testing.assert_allclose(selection.table["cv"][0], density.mean(), rtol=1e-9)
    error = density.std() / math.sqrt(len(x))
    np.testing.assert_allclose(selection.table["cv_error"][0], error, rtol=1e-6)
    assert selection.n_components == 2  # of the two; three clusters lie there
    # the fits in the table are those to all the data
    np.testing.assert_allclose(jaxgmm.mixture(selection.states[0]).means[0], data.mean(0))


@pytest.mark.slow
def test_a_weight_of_two_counts_a_sample_twice():
    weighted = select((1, 2), "full", sample_weight=np.full(len(x), 2.0))
    twice = select((1, 2), "full", x=np.concatenate([x, x]))
    for name in ("bic", "aic", "icl"):
        np.testing.assert_allclose(weighted.table[name], twice.table[name], rtol=1e-4)


def test_more_components_never_fit_worse_than_fewer():
    # the moves from K - 1 see to it, even from a single start that is poor
    selection = select(range(1, 7), "full", n_restarts=3, init="random_responsibilities")
    assert (np.diff(selection.table["log_likelihood"]) > 0).all()


@pytest.mark.slow
def test_what_failed_is_named_and_never_chosen():
    flat = np.concatenate([np.asarray(x), np.ones((len(x), 1))], axis=1)
    selection = select((1, 2), "full", x=flat)
    assert np.isnan(selection.table["bic"]).all()
    assert "COLLAPSED (full 1, full 2): A component" in selection.summary()
    with pytest.raises(ValueError, match=r"all failed\. .*constant or duplicated"):
        _ = selection.best
    # in the default prior's hands the same data are fitted
    proper = select((1, 2), "full", x=flat, criterion="elbo")
    assert np.isfinite(proper.table["elbo"]).all()


def test_ctrl_c_keeps_the_covariances_that_were_done(monkeypatch: pytest.MonkeyPatch):
    real, calls = jaxgmm._fit.sweep.start_groups, []

    def launch(*args: Any, **options: Any) -> Any:
        calls.append(args)
        # not while programs are compiled ahead
        if args[2].prior.components.covariance_name == "tied" and not options["shapes"]:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(jaxgmm._fit.sweep, "start_groups", launch)
    selection = select((1, 3), ("full", "tied"))
    assert selection.interrupted
    assert selection.covariance == "full"
    assert "Interrupted" in repr(selection)
    with pytest.raises(KeyboardInterrupt):
        select((1, 3), ("tied", "full"))


def cavi_of(k: int, name: str) -> jaxgmm.Algorithm:
    return jaxgmm.cavi(jaxgmm.default_prior(x, k, name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "bik"}, "criterion='bik' is not known; did you mean 'bic'"),
        ({"covariance": "round"}, "covariance='round' is not known; expected one of 'full'"),
        ({"covariance": []}, "at least one n_components and one covariance"),
        ({"n_components": []}, "at least one n_components"),
        ({"n_components": (0, 1)}, "n_components must be an integer of at least 1, but it is 0"),
        ({"n_components": (1, 121)}, "x has 120 rows, fewer than the 121 components"),
        ({"criterion": "cv", "n_folds": 1}, "n_folds must be from 2 to 120"),
        ({"init": "somewhere"}, "init='somewhere' is not known"),
        ({"n_restarts": 0}, "n_restarts must be an integer of at least 1"),
        ({"tol": -1.0}, "tol must be 0 or more"),
        (
            {"criterion": "elbo", "algorithm": lambda k, c: jaxgmm.em(jaxgmm.flat_prior(k, 2))},
            r"needs jaxgmm\.cavi, but algorithm\(1, 'full'\) is EM",
        ),
        ({"algorithm": lambda k, c: cavi_of(2, c)}, "must have 1 components, but its prior has 2"),
        (
            {"algorithm": lambda k, c: cavi_of(k, "full" if k == 1 else "tied")},
            "one kind of model for all K of a covariance, but for 'full' it gives CAVI of full",
        ),
        (
            {"algorithm": lambda k, c: k},
            r"must come from jaxgmm\.em or jaxgmm\.cavi, plain or wrapped .*, but it is 1",
        ),
    ],
)
def test_bad_input(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        select(**options)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["bic", "elbo"])
def test_one_component_alone_has_no_moves(criterion: str):
    alone = select([1], ["spherical"], criterion=criterion)
    beside = select([1, 2], ["spherical"], criterion=criterion)
    assert alone.n_components == 1
    if criterion == "bic":
        np.testing.assert_allclose(alone.table["bic"], beside.table["bic"][:1], rtol=1e-9)
