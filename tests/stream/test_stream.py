"""Rows that come in batches give the fit of all rows at once, and say what is wrong with them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import clusters, parametrize

import jaxgmm
from jaxgmm._numerics.pytree import replace
from jaxgmm._stream.batches import Batches
from jaxgmm._stream.survey import Reservoir

KEY = jax.random.key(0)
N = 600
X = np.asarray(clusters(n=N))
RNG = np.random.default_rng(0)
WEIGHT = RNG.integers(0, 4, N).astype(float)
MISSING = (RNG.random(X.shape) < 0.2) & (np.arange(2) == RNG.integers(0, 2, N)[:, None])
NOISE = RNG.uniform(0, 0.3, X.shape)
LABELS = np.where(RNG.random(N) < 0.1, (X[:, 0] > 2.5).astype(int), -1)
MEANS = np.array([[0.0, 1.0], [3.0, 1.0], [1.0, 4.0]])
START = {"parameters": (np.full(3, 1 / 3), MEANS, np.tile(2 * np.eye(2), (3, 1, 1)))}
UNEVEN = (1, 7, 0, 250, 300, 42)


def uneven(rows: Any, lengths: tuple[int, ...] = UNEVEN) -> Callable[[], Iterator[Any]]:
    """Batches of lengths that fit to nothing."""

    def batches() -> Iterator[Any]:
        for n, start in zip(lengths, np.cumsum((0, *lengths)), strict=False):
            yield jax.tree.map(lambda a, s=start, n=n: a[s : s + n], rows)

    return batches


def plain(*arguments: Any, **options: Any) -> jaxgmm.Result:
    """A fit of one lane from a given start, without moves."""
    return jaxgmm.fit(KEY, *arguments, init=START, moves=False, history=True, **options)


def check_same(a: jaxgmm.Result, b: jaxgmm.Result) -> None:
    assert a.best.n_iter == b.best.n_iter
    assert a.best.status == b.best.status == jaxgmm.Status.CONVERGED
    np.testing.assert_allclose(a.history, b.history, rtol=1e-9 / N)
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-9, atol=1e-9),
        a.best.posterior,
        b.best.posterior,
    )


ALGORITHMS = {
    "EM": jaxgmm.em,
    "CAVI": jaxgmm.cavi,
    "SQUAREM": lambda prior: jaxgmm.squarem(jaxgmm.em(prior)),
    "annealed CAVI": lambda prior: jaxgmm.annealed(jaxgmm.cavi(prior), 5),
}
FAMILIES = ("full", "tied", "diag", "spherical", jnp.eye(2))
CASES = [(name, family) for name in ALGORITHMS for family in range(len(FAMILIES))]


@parametrize(
    ("name", "family"),
    CASES,
    slow=lambda name, family: (name, family) not in (("EM", 0), ("CAVI", 2)),
)
def test_a_stream_gives_the_fit_of_all_rows(name: str, family: int):
    algorithm = ALGORITHMS[name](jaxgmm.default_prior(X, 3, FAMILIES[family]))
    whole = plain(X, algorithm)
    for stream in (jaxgmm.Stream(X, 77), jaxgmm.Stream(uneven(X), 600)):
        check_same(plain(stream, algorithm), whole)


@pytest.mark.parametrize("weights", [pytest.param("dirichlet_process", marks=pytest.mark.slow)])
def test_sticks_are_put_in_order(weights: str):
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(X, 3, weights=weights))
    check_same(plain(jaxgmm.Stream(X, 100), algorithm), plain(X, algorithm))


@pytest.mark.parametrize(
    "field",
    [
        {"weight": WEIGHT, "labels": LABELS},
        pytest.param({"missing": MISSING}, marks=pytest.mark.slow),
        pytest.param({"noise": NOISE, "missing": MISSING}, marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_batches_hold_all_that_rows_hold(field: dict[str, Any]):
    rows = jaxgmm.Rows(X, **field)
    algorithm = jaxgmm.em(jaxgmm.default_prior(rows, 3, "diag"))
    whole = plain(rows, algorithm)
    check_same(plain(jaxgmm.Stream(rows, 77), algorithm), whole)
    if "missing" in field:
        gaps = jaxgmm.Rows(np.where(MISSING, np.nan, X), missing="nan", noise=field.get("noise"))
        check_same(plain(jaxgmm.Stream(gaps, 100), algorithm), whole)


def test_random_starts_race_on_a_sample_and_the_best_see_all_rows():
    stream = jaxgmm.Stream(X, 100, sample_size=300)
    algorithm = jaxgmm.em(jaxgmm.default_prior(stream, 3))
    result = jaxgmm.fit(KEY, stream, algorithm, history=True, tol=1e-8)
    whole = jaxgmm.fit(KEY, X, algorithm, tol=1e-8).best
    assert result.best.status == jaxgmm.Status.CONVERGED
    np.testing.assert_allclose(result.best.objective, whole.objective, atol=N * 1e-6)
    statuses = result.statuses()
    assert 1 <= statuses[jaxgmm.Status.CONVERGED] <= 4
    assert sum(statuses.values()) == 16
    seen = np.isfinite(result.history).any(axis=0)
    np.testing.assert_array_equal(seen, np.asarray(result.states.status) == jaxgmm.Status.CONVERGED)
    assert "the starts and the notes are of 300 of the 600 rows" in result.summary()
    # the states are in the data's units: a bound of all rows at the estimate
    np.testing.assert_allclose(
        result.best.objective,
        jaxgmm.log_prob(result, X).sum() - result.best.penalty,
        rtol=1e-6,
    )


def test_only_lanes_that_may_be_the_best_see_all_rows():
    from jaxgmm._fit.contenders import contenders

    # three optima: two alike on these rows, and one that is certainly worse
    x = jnp.asarray(X[:200])
    algorithm = jaxgmm.em(jaxgmm.default_prior(X, 2, "spherical"))

    def at(shift: float) -> Any:
        start = (
            np.full(2, 0.5),
            np.array([[0.0, 0.5], [3.0 + shift, 3.0]]),
            START["parameters"][2],
        )
        state = algorithm.init(KEY, x, {"parameters": (*start[:2], start[2][:2])})
        return state

    lanes = [at(shift) for shift in (0.0, 0.0, 0.02, 12.0)]
    objectives = [float(jaxgmm.log_prob(state, x).sum()) for state in lanes]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(4 * lanes))
    status = jnp.full(16, int(jaxgmm.Status.CONVERGED), jnp.int32)
    states = replace(states, objective=jnp.asarray(4 * objectives), status=status)
    rows = jaxgmm.Rows(x)
    assert objectives[0] - objectives[3] > 50
    found = contenders(states, rows, 10_000, 1e-3)
    assert len(found) == 2
    assert set(np.asarray(found) % 4) <= {0, 1, 2}
    assert len(contenders(states, rows, 200, 1e-3)) == 1  # the sample is all rows
    assert len(contenders(states, rows, 10_000, 1e6)) == 1  # all at one optimum


def test_svi_goes_through_the_batches():
    stream = jaxgmm.Stream(X, 150)
    prior = jaxgmm.default_prior(stream, 3)
    algorithm = jaxgmm.svi(prior, jaxgmm.natural_gradient(), batch_size=50, average=True)
    result = jaxgmm.fit(KEY, stream, algorithm, n_restarts=2, max_iter=400, init=START_2, tol=0.0)
    assert (np.asarray(result.states.n_iter) == 400).all()
    optimum = plain(X, jaxgmm.cavi(prior)).best
    # of 600 rows in minibatches of 50: within a hundredth of a nat a sample
    for lane in range(2):
        state = jax.tree.map(lambda a, lane=lane: a[lane], result.states)
        gap = float(optimum.objective - jaxgmm.elbo(state, X)) / N
        assert -1e-9 < gap < 1e-2


START_2 = jax.tree.map(lambda a: np.stack([a, a]), START)


def test_a_minibatch_of_a_batch_stands_for_all_rows():
    from jaxgmm._algorithms.minibatch import minibatch
    from jaxgmm._estep.data import prepare

    data = replace(prepare(jaxgmm.Rows(jnp.asarray(X[:60]))), scale=jnp.asarray(N / 60))
    sums = []
    for i in range(4):
        part = minibatch(KEY, data, jnp.asarray(i), 15)
        sums.append(part.scale * jnp.sum(part.weight[:, None] * part.x, axis=0))
    np.testing.assert_allclose(np.mean(sums, axis=0), N * X[:60].mean(axis=0))


def test_sources(tmp_path: Path):
    from pyarrow import parquet, table

    np.save(tmp_path / "a.npy", X[:400])
    np.save(tmp_path / "b.npy", np.asfortranarray(X[400:]))
    columns = {f"x{j}": X[:, j] for j in range(2)}
    parquet.write_table(table(columns), tmp_path / "x.parquet", row_group_size=170)
    mapped = np.memmap(tmp_path / "x.bin", X.dtype, "w+", shape=X.shape)
    mapped[:] = X
    sources = {
        "array": X,
        "list of integers": [np.round(X).astype(int)],
        "jax": jnp.asarray(X),
        "memory map": mapped,
        "files": [str(tmp_path / "a.npy"), tmp_path / "b.npy"],
        "parquet": str(tmp_path / "x.parquet"),
        "rows": jaxgmm.Rows(X),
        "loader of tuples": [(X[:300],), (X[300:],)],
        "function": uneven(X),
        "generator function": lambda: (X[i : i + 50] for i in range(0, N, 50)),
    }
    for name, source in sources.items():
        stream = jaxgmm.Stream(source, 90)
        expected = np.round(X) if "integers" in name else X
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate(list(stream)), expected, err_msg=name)
        assert (stream.n_samples, stream.n_features) == X.shape, name
        np.testing.assert_array_equal(stream.sample().x, expected, err_msg=name)
    assert "600 rows, 2 features" in repr(stream)


def test_the_sample_does_not_depend_on_the_batches():
    samples = [
        jaxgmm.Stream(source, sample_size=50).sample()
        for source in (X, uneven(X), [X[:599], X[599:]])
    ]
    for sample in samples:
        np.testing.assert_array_equal(sample.x, samples[0].x)
        np.testing.assert_allclose(sample.weight.sum(), N)
    assert len({tuple(row) for row in samples[0].x} & {tuple(row) for row in X}) == 50
    weighted = jaxgmm.Stream(jaxgmm.Rows(X, WEIGHT), 100, sample_size=50).sample()
    np.testing.assert_allclose(weighted.weight.sum(), WEIGHT.sum())


def test_every_row_is_as_likely_to_be_in_the_sample():
    # 20 of 100 rows, 500 times: each is in 100 +- 9 samples; six standard deviations
    counts = np.zeros(100)
    for seed in range(500):
        reservoir = Reservoir(20, seed)
        for i in range(0, 100, 30):
            reservoir.add(jaxgmm.Rows(np.arange(i, min(i + 30, 100), dtype=float)[:, None]))
        counts[reservoir.kept().rows.x[:, 0].astype(int)] += 1
    assert counts.sum() == 500 * 20
    assert np.abs(counts - 100).max() < 6 * np.sqrt(500 * 0.2 * 0.8)


def test_rows_made_with_the_same_seed_are_sampled_at_random():
    x = (np.random.default_rng(7).random(1000) < 0.5).astype(float)[:, None]
    mean = jaxgmm.Stream(x, sample_size=200, seed=7).sample().x.mean()
    assert abs(mean - 0.5) < 5 * 0.5 / np.sqrt(200)


def test_batches_are_of_one_length_and_add_up():
    stream = jaxgmm.Stream(uneven(X), 77)
    to = jaxgmm._fit.whitening.Whitening(X, jaxgmm.Rows(jnp.asarray(X)), _em()).to
    batches = Batches(stream.reader, stream.survey(), to, np.float64, stream.batch_size)
    parts = list(batches.one_pass(1))
    assert {part.rows.x.shape for part in parts} == {(75, 2)}
    assert [part.n_rows for part in parts] == [75] * 8
    np.testing.assert_allclose(np.concatenate([part.rows.x for part in parts]), to.points(X))
    padded = list(Batches(stream.reader, stream.survey(), to, np.float32, 130).one_pass(1))
    assert {part.rows.x.shape for part in padded} == {(120, 2)}
    uneven_stream = jaxgmm.Stream(X[:599])
    padded = list(
        Batches(uneven_stream.reader, uneven_stream.survey(), to, np.float32, 130).one_pass(1)
    )
    assert [int(part.rows.weight.sum()) for part in padded] == [120, 120, 120, 120, 119]
    assert padded[-1].n_rows == 119
    assert (padded[-1].rows.x[119:] == 0).all()


def _em() -> jaxgmm.EM:
    return jaxgmm.em(jaxgmm.flat_prior(2, 2))


class Fickle:
    """A source that does something else in a later pass."""

    def __init__(self, what: Callable[[int], Iterator[Any]], from_pass: int = 3):
        self.what, self.left = what, from_pass

    def __call__(self) -> Iterator[Any]:
        self.left -= 1
        return self.what(self.left)


def failing(left: int) -> Iterator[Any]:
    yield X[:200]
    if left <= 0:
        raise OSError("the disk is gone")
    yield X[200:]


def ending(left: int) -> Iterator[Any]:
    yield from (X[:200], X[200:] if left > 0 else X[200:500])


def growing(left: int) -> Iterator[Any]:
    yield from (X, X[:1]) if left <= 0 else (X,)


def changing(left: int) -> Iterator[Any]:
    yield X if left > 0 else np.where(np.arange(N)[:, None] == 17, 0.0, X)


def narrowing(left: int) -> Iterator[Any]:
    yield from (X[:200], X[200:] if left > 0 else X[200:, :1])


def losing_weights(left: int) -> Iterator[Any]:
    yield jaxgmm.Rows(X, np.ones(N) if left > 0 else None)


def breaking(left: int) -> Iterator[Any]:
    yield X if left > 0 else "nothing"


def stopping(left: int) -> Iterator[Any]:
    yield X[:200]
    if left <= 0:
        raise KeyboardInterrupt
    yield X[200:]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (failing, "failed at batch 2 of pass 2: OSError: the disk is gone"),
        (ending, "pass 2 ended after batch 2 with 500 rows, but the first pass had 600"),
        (growing, "batch 2 of pass 2 goes beyond the 600 rows of the first pass"),
        (changing, "rows of pass 2 are not those of the first pass"),
        (
            narrowing,
            "batch 2 of pass 2 has 1 values of float64, but those of the first pass have 2",
        ),
        (losing_weights, "have 2 values of float64 and weight: a Stream gives the same"),
        (breaking, "batch 1 of the stream: .* right in the first pass, not in pass 2"),
    ],
)
def test_a_stream_that_fails_loses_no_pass(source: Any, message: str):
    algorithm = jaxgmm.em(jaxgmm.default_prior(X, 3))
    with pytest.raises(jaxgmm.StreamError, match=message) as caught:
        plain(jaxgmm.Stream(Fickle(source), 100), algorithm)
    so_far = caught.value.result
    assert so_far.interrupted
    assert so_far.best.n_iter == 1
    assert len(so_far.history) == 1
    whole = plain(X, algorithm)
    np.testing.assert_allclose(so_far.best.objective, whole.history[0, 0], rtol=1e-12)
    again = jaxgmm.fit(KEY, jaxgmm.Stream(X), algorithm, init=so_far)
    np.testing.assert_allclose(again.best.objective, whole.best.objective, rtol=1e-9)


def test_ctrl_c_in_the_middle_of_a_pass():
    algorithm = jaxgmm.em(jaxgmm.default_prior(X, 3))
    result = plain(jaxgmm.Stream(Fickle(stopping), 100), algorithm)
    assert result.interrupted
    assert result.best.status == jaxgmm.Status.RUNNING
    assert result.best.n_iter == 1


def test_another_order_is_another_pass_over_the_same_rows():
    orders = iter(np.random.default_rng(1).permutation(N) for _ in range(1000))
    algorithm = jaxgmm.em(jaxgmm.default_prior(X, 3))
    stream = jaxgmm.Stream(lambda: iter([X[next(orders)]]), 100)
    check_same(plain(stream, algorithm), plain(X, algorithm))


def test_a_checksum_sees_other_rows_but_not_their_order():
    from jaxgmm._stream.items import checksum

    def of(x: Any, weight: Any = None) -> int:
        return checksum(jaxgmm.Rows(np.asarray(x), weight))

    swapped = X.copy()
    swapped[[0, 1], 0] = X[[1, 0], 0]
    others = [-X, X[:, ::-1], swapped, X[:-1], X * np.where(np.arange(N)[:, None] < 2, -1, 1)]
    others += [np.nextafter(X, 9), X.astype(np.float32)]
    own = of(X)
    labelled = [checksum(jaxgmm.Rows(X, labels=labels)) for labels in (LABELS, LABELS[::-1].copy())]
    noisy = [checksum(jaxgmm.Rows(X, noise=noise)) for noise in (NOISE, NOISE[:, ::-1].copy())]
    masked = [checksum(jaxgmm.Rows(X, missing=mask)) for mask in (MISSING, ~MISSING)]
    assert len({own, *labelled, *noisy, *masked}) == 7
    assert len({own, of(X, WEIGHT), of(X, WEIGHT[::-1].copy()), *map(of, others)}) == 10
    assert of(X[::-1]) == own == (of(X[:77]) + of(X[77:])) % 2**64
    assert of(X.astype(np.float32)[::-1, :1]) == of(X.astype(np.float32)[:, :1])


def nan_at(row: int) -> np.ndarray:
    return np.where(np.arange(N)[:, None] == row, np.nan, X)


BAD: dict[str, tuple[Any, str]] = {
    "iterator": (lambda: jaxgmm.Stream(iter([X])), "can be read once only"),
    "number": (lambda: jaxgmm.Stream(3), "reads an array that can be sliced"),
    "vector": (lambda: jaxgmm.Stream(X[:, 0]), r"shape \(600,\)"),
    "no file": (lambda: jaxgmm.Stream("nowhere.npy"), "there is no file nowhere.npy"),
    "csv": (lambda: jaxgmm.Stream("x.csv"), "of another kind"),
    "batch size": (lambda: jaxgmm.Stream(X, 0), "batch_size must be an integer of at least 1"),
    "NaN": (lambda: jaxgmm.Stream(nan_at(250), 100).survey(), "batch 3 of the stream: .*rows 50"),
    "nothing": (lambda: jaxgmm.Stream([]).survey(), "no rows"),
    "weights 0": (
        lambda: jaxgmm.Stream(jaxgmm.Rows(X, np.zeros(N))).survey(),
        "all weights of the stream are 0",
    ),
    "negative weight": (
        lambda: jaxgmm.Stream(jaxgmm.Rows(X, -WEIGHT)).survey(),
        "batch 1 of the stream: .*weight",
    ),
    "width": (lambda: jaxgmm.Stream([X, X[:, :1]]).survey(), "batch 2 of the stream: x has 1 feat"),
    "dtypes": (lambda: jaxgmm.Stream([X, X.astype("f4")]).survey(), "batch 2 .* values of float32"),
    "tuple": (lambda: jaxgmm.Stream([(X, X)]).survey(), r"jaxgmm\.Rows\(x, weight=weight\)"),
    "weights beside": (
        lambda: jaxgmm.fit(KEY, jaxgmm.Stream(X), _em(), sample_weight=WEIGHT),
        "come with its batches",
    ),
    "mesh": (
        lambda: jaxgmm.fit(
            KEY,
            jaxgmm.Stream(X),
            _em(),
            mesh=jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        ),
        "leave mesh out",
    ),
    "svi": (
        lambda: jaxgmm.fit(
            KEY,
            jaxgmm.Stream(X),
            jaxgmm.svi(jaxgmm.default_prior(X, 2), jaxgmm.natural_gradient()),
        ),
        "give jaxgmm.svi a batch_size",
    ),
    "truncated": (
        lambda: jaxgmm.fit(KEY, jaxgmm.Stream(X), jaxgmm.em(jaxgmm.flat_prior(3, 2), truncation=2)),
        "truncated EM remembers every row",
    ),
    "labels of all": (
        lambda: jaxgmm.fit(KEY, jaxgmm.Stream(X), _em(), init={"labels": np.zeros(N, int)}),
        "of all rows",
    ),
    "wrong width": (
        lambda: jaxgmm.fit(KEY, jaxgmm.Stream(X), jaxgmm.em(jaxgmm.flat_prior(2, 3))),
        "x has 2 features, but the prior has 3",
    ),
    "density": (
        lambda: jaxgmm.log_prob(_em().init(KEY, jnp.asarray(X)), jaxgmm.Stream(X)),
        "batch by batch",
    ),
}


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("name", BAD)
def test_what_no_stream_can_do_is_said(name: str):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_source_fails_in_the_first_pass():
    with pytest.raises(jaxgmm.StreamError, match="batch 2 of the first pass: OSError"):
        jaxgmm.Stream(Fickle(failing, 1)).survey()


def test_a_fit_that_is_kept_goes_on_bit_by_bit(tmp_path: Path):
    algorithm = jaxgmm.em(jaxgmm.default_prior(X, 3))
    whole = plain(jaxgmm.Stream(X, 100), algorithm)
    kept = tmp_path / "fit"
    with pytest.raises(jaxgmm.StreamError):
        plain(jaxgmm.Stream(Fickle(failing, 5), 100), algorithm, checkpoint=kept, every=1)
    # the last bits of rows that are moved depend on the lengths of the source's batches
    again = jaxgmm.resume(kept, jaxgmm.Stream([X[:200], X[200:]], 100))
    assert again == plain(jaxgmm.Stream([X[:200], X[200:]], 100), algorithm)
    check_same(again, whole)
    assert jaxgmm.resume(kept, jaxgmm.Stream(X, 100)) == again
    with pytest.raises(ValueError, match="rows of the samples are not those of the fit"):
        jaxgmm.resume(kept, jaxgmm.Stream(-X, 100))
    with pytest.raises(ValueError, match="x is an array, but"):
        jaxgmm.resume(kept, X)
    svi = jaxgmm.svi(jaxgmm.default_prior(X, 3), jaxgmm.natural_gradient(), batch_size=50)
    with pytest.raises(ValueError, match="does not hold where in a stream SVI is"):
        jaxgmm.fit(KEY, jaxgmm.Stream(X), svi, checkpoint=tmp_path / "svi")
