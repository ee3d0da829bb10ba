"""Fits that are kept: whatever ends them, they go on to the same result, to the last bit."""

import contextlib
import functools
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs.kept import EFFORT, data, fitted, stream, streamed

import jaxgmm
from jaxgmm._export import checkpoints
from jaxgmm._export.folder import Folder, interval_of
from jaxgmm._export.steps import Steps
from jaxgmm._fit import race, rescue
from jaxgmm._fit.progress import compact
from jaxgmm._numerics.pytree import replace, same_bits

PROGRAM = Path(__file__).parents[1] / "programs" / "kept.py"
SLOW = pytest.mark.slow


@functools.cache
def whole() -> jaxgmm.Result:
    """The result of the fit that nothing interrupts."""
    return fitted()


def resumed(path: Path, x: Any = None, *more: Any, **options: Any) -> jaxgmm.Result:
    return jaxgmm.resume(path, data() if x is None else x, *more, progress=False, **options)


def names(path: Path) -> list[str]:
    """What is in the folder of a fit."""
    return sorted(str(p.relative_to(path)) for p in [*path.iterdir(), *(path / "stages").iterdir()])


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """In its context every stage that is due is written, and before a step something happens."""
    save = Steps.save

    @contextlib.contextmanager
    def before(number: int, happens: Callable[[], None] = lambda: None) -> Iterator[None]:
        def saved(self: Steps, *args: Any) -> None:
            if self._next == number:
                self.wait()
                happens()
            save(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(Steps, "busy", False)
            patch.setattr(Steps, "save", saved)
            yield

    return before


class Halt(BaseException):
    """What no one catches."""


def halt() -> None:
    raise Halt


@pytest.mark.parametrize("some", [4, pytest.param(1, marks=SLOW)])
def test_a_fit_goes_on_from_every_checkpoint(
    tmp_path: Path, at_step: Any, monkeypatch: Any, some: int
):
    stages, write = [], Folder._write
    with at_step(-1), monkeypatch.context() as patch:
        patch.setattr(
            Folder, "_write", lambda self, stage: (stages.append(stage), write(self, stage))
        )
        want = fitted(checkpoint=tmp_path / "fit", every=20, keep=1000)
    assert want == fitted()
    assert want.history.shape[0] > 32  # beyond the last rung of the race
    steps = sorted(int(p.name) for p in (tmp_path / "fit" / "stages").iterdir())
    assert len(steps) == len(stages) > 10
    # they write no more, and the calls of the loop have other lengths
    monkeypatch.setattr(checkpoints, "interval_of", lambda every: 1e9)
    rounds, before = set(), set()
    for last in sorted({*steps[::some], steps[-1]}):
        path = tmp_path / str(last)
        shutil.copytree(tmp_path / "fit", path)
        for later in steps[last + 1 :]:
            shutil.rmtree(path / "stages" / str(later))
        kept = Folder(path, 1, 2, resumes=True).stage
        written = stages[last]
        if written.progress is not None:
            written = replace(written, progress=compact(written.progress))
            before.add(np.ndim(written.progress.before))
        assert same_bits(kept, written)
        rounds.add(None if kept.round is None else int(kept.round.number))
        assert resumed(path) == want, last
    assert len(rounds) > 2  # among the lanes, and in different rounds of moves
    assert before == {0, 1}  # moves before and after they were compared


@pytest.mark.parametrize(
    ("n", "every", "seconds", "what"),
    [
        (5, "0.05 s", "0.3", "rows"),
        pytest.param(50, "3", "1", "rows", marks=SLOW),
        pytest.param(20, "3", "1", "stream", marks=SLOW),
    ],
)
def test_a_killed_fit_goes_on(
    tmp_path: Path, monkeypatch: Any, n: int, every: str, seconds: str, what: str
):
    streams = what == "stream"
    want = streamed() if streams else fitted(effort=EFFORT)
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, str(n), every, seconds, what],
        env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60 + 30 * n,
    )
    assert int(done.stdout) >= n / 2, "most were to be killed before they had ended"
    monkeypatch.setattr(checkpoints, "interval_of", lambda every: 1e9)
    for i in range(n):
        path = tmp_path / str(i)
        assert resumed(path, stream() if streams else None) == want, i
        kept = names(path)
        assert kept[0] == "fit.safetensors"
        assert all(name.removeprefix("stages/").isdigit() for name in kept[2:]), kept
        assert len(kept) <= 4  # two checkpoints
        assert resumed(path, stream() if streams else None) == want  # once more, from its end


def test_ctrl_c_and_errors_leave_the_last_stage(tmp_path: Path, at_step: Any):
    def interrupt() -> None:
        raise KeyboardInterrupt

    for happens in (interrupt, halt):
        path = tmp_path / happens.__name__
        with contextlib.suppress(Halt), at_step(4, happens):
            assert fitted(checkpoint=path, every=7).interrupted
        assert names(path)[0] == "fit.safetensors"
        assert resumed(path) == whole()


# what Orbax's own threads say after the error
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [5, pytest.param(0, marks=SLOW)])
def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(
    tmp_path: Path, at_step: Any, number: int
):
    whole()  # compiled before there is no room

    def fills() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))

    try:
        full = pytest.raises(OSError, match=r"could not be written \(File too large\).*resume")
        with full, at_step(number, fills):
            fitted(checkpoint=tmp_path, every=7, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    kept = [f"stages/{number - 1}"] if number else []
    assert names(tmp_path) == ["fit.safetensors", "stages", *kept]
    assert resumed(tmp_path) == whole()


def test_a_full_disk_at_the_end_costs_no_result(tmp_path: Path, monkeypatch: Any):
    def full(self: Steps) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Steps, "wait", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert fitted(checkpoint=tmp_path) == whole()


@SLOW
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, at_step: Any):
    with at_step(-1):
        fitted(checkpoint=tmp_path, every=40)
    last, before = sorted((tmp_path / "stages").iterdir(), key=lambda p: -int(p.name))
    for file in (p for p in last.rglob("*") if p.is_file()):
        file.write_bytes(file.read_bytes()[:10])
    with pytest.warns(RuntimeWarning, match="goes on from the one before"):
        assert resumed(tmp_path) == whole()
    assert resumed(tmp_path) == whole()
    for file in (p for p in (tmp_path / "stages").rglob("*") if p.is_file()):
        file.write_bytes(b"")
    with pytest.raises(OSError, match="no checkpoint can be read; fit again"):
        resumed(tmp_path)
    assert before != last


def test_a_folder_that_keeps_a_fit_is_not_written_to(tmp_path: Path, no_type_checker: None):
    path = tmp_path / "fit"
    fitted(checkpoint=path, every="1 h")
    with pytest.raises(ValueError, match=r"keeps a fit already; go on with it by jaxgmm\.resume\("):
        fitted(checkpoint=path)
    with pytest.raises(ValueError, match="is a file; give another path"):
        fitted(checkpoint=path / "fit.safetensors")
    with pytest.raises(ValueError, match="checkpoint must be the path of a folder"):
        fitted(checkpoint=3)
    with pytest.raises(ValueError, match="keep must be an integer of at least 1"):
        fitted(checkpoint=tmp_path / "b", keep=0)


def test_other_fits_are_refused(tmp_path: Path, monkeypatch: Any):
    path, x = tmp_path / "fit", data()
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 1, "spherical"))
    fitted(checkpoint=path)
    ones = np.ones(len(x))
    mesh = jax.make_mesh((1,), ("data",))
    for change, sentence in (
        (lambda: resumed(tmp_path / "no"), "no keeps no fit; give the folder of"),
        (lambda: resumed(path, x[:-1]), r"x has the shape \(59, 1\), but .* the shape \(60, 1\)"),
        (lambda: resumed(path, x.astype("float32")), "the dtype float32, but .* the dtype float64"),
        (lambda: resumed(path, x + 1e-15), "the values of the samples are not those of the fit"),
        (lambda: resumed(path, x[::-1]), "same rows in the same order"),
        (lambda: resumed(path, sample_weight=ones), "the weights of the samples are not those"),
        (lambda: resumed(path, jaxgmm.Rows(x, noise=ones)), "the errors of the samples"),
        (lambda: resumed(path, x, jaxgmm.em(algorithm.prior, 1e-3)), "algorithm is not that of"),
        (lambda: resumed(path, init=lambda key, rows, k: rows.x[:k]), "were made by no function"),
        (lambda: resumed(path, mesh=mesh), "a fit on no mesh, but mesh= is a mesh 1 data"),
    ):
        with pytest.raises(ValueError, match=sentence):
            change()
    assert resumed(path, jaxgmm.Rows(x), algorithm) == whole()
    monkeypatch.setattr(checkpoints, "installed_version", lambda: "9.0")
    with pytest.raises(ValueError, match=r"keeps a fit of jaxgmm 0\.\d.*, but this is 9\.0"):
        resumed(path)
    (path / "fit.safetensors").write_bytes(b"something")
    with pytest.raises(ValueError, match="it is another program's, or cut short"):
        resumed(path)


@SLOW
def test_what_no_file_can_hold_is_asked_for(tmp_path: Path, at_step: Any):
    x = jnp.asarray(data())

    def first(key: jax.Array, rows: jaxgmm.Rows, k: int) -> jax.Array:
        return rows.x[:k]

    def svi(rate: float) -> jaxgmm.SVI:
        return jaxgmm.svi(jaxgmm.default_prior(data(), 2, "diag"), optax.adam(rate), 20)

    given = {"init": first, "n_restarts": 2, "max_iter": 60, "progress": False}
    algorithm = svi(0.1)
    want = jaxgmm.fit(jax.random.key(0), x, algorithm, **given)
    with pytest.raises(Halt), at_step(2, halt):
        jaxgmm.fit(jax.random.key(0), x, algorithm, **given, checkpoint=tmp_path, every=10)
    with pytest.raises(ValueError, match="cannot hold the optimiser of this SVI"):
        resumed(tmp_path, x)
    with pytest.raises(ValueError, match="the function first that made the starts"):
        resumed(tmp_path, x, algorithm)
    other = jaxgmm.svi(algorithm.prior, optax.sgd(0.1), 20)
    with pytest.raises(ValueError, match="of another kind than those of this algorithm"):
        resumed(tmp_path, x, other, init=first)
    assert resumed(tmp_path, x, algorithm, init=first) == want


@SLOW
def test_a_batch_that_shrank_goes_on_as_it_was(tmp_path: Path, at_step: Any, monkeypatch: Any):
    for name, value in (("_LARGE", 0), ("_SAVED", 0), ("_BETWEEN_CUTS", 1)):
        monkeypatch.setattr(race, name, value)
    given = {"n_restarts": 64, "moves": False}
    want = fitted(**given)
    sizes = []
    for number in range(1, 12):
        path = tmp_path / str(number)
        with contextlib.suppress(Halt), at_step(number, halt):
            fitted(**given, checkpoint=path, every=6)
        stage = Folder(path, 1, 2, resumes=True).stage
        sizes.append(len(stage.progress.lanes) if stage.progress else 0)
        assert resumed(path) == want
    assert sizes[0] == 64 > sizes[4] > sizes[-1], sizes


@SLOW
def test_a_rescue_begins_again(tmp_path: Path, monkeypatch: Any):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(30, 2)), np.repeat(rng.normal(size=(5, 2)), 8, 0)])
    algorithm = jaxgmm.em(jaxgmm.flat_prior(8, 2))
    fit = functools.partial(jaxgmm.fit, jax.random.key(0), x, algorithm, progress=False)
    want = fit()
    with monkeypatch.context() as patch:
        patch.setattr(rescue, "_again", lambda *args: halt())
        with pytest.raises(Halt):
            fit(checkpoint=tmp_path)
    assert resumed(tmp_path, x) == want


def test_orbax_is_asked_for(tmp_path: Path, monkeypatch: Any):
    for name in ("orbax", "orbax.checkpoint"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: fitted(checkpoint=tmp_path / "a"), lambda: resumed(tmp_path)):
        with pytest.raises(ImportError, match=r'pip install "jaxgmm\[checkpoint\]"'):
            call()


def test_intervals_are_iterations_or_times():
    found = [interval_of(every) for every in (7, "30 s", "5 min", "1.5 h", "2minutes", "1 hour")]
    assert found == [7, 30.0, 300.0, 5400.0, 120.0, 3600.0]
    assert [type(every) for every in found] == [int, *[float] * 5]
    for bad in (0, -1, True, 1.5, "5", "5 days", "0 s", "s", None):
        with pytest.raises(ValueError, match="every must be a number of iterations or a time"):
            interval_of(bad)
