"""A fit as JSON and arrays: all types that may be in a file are listed here, no other is built."""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxgmm._algorithms.annealed import Annealed
from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.cavi import CAVI, TruncatedCAVI
from jaxgmm._algorithms.em import EM, TruncatedEM
from jaxgmm._algorithms.monitor import Trace
from jaxgmm._algorithms.natural import NaturalGradient, NaturalSVI
from jaxgmm._algorithms.squarem import Extrapolation, Squarem
from jaxgmm._algorithms.stochastic import Memory
from jaxgmm._algorithms.svi import SVI, svi
from jaxgmm._estep.passes.truncated import Kept
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.stats import Stats
from jaxgmm._fit.keeping import Round, Stage
from jaxgmm._fit.progress import Progress
from jaxgmm._fit.result import Result
from jaxgmm._fit.selection import Selection
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import Mixture, StudentTMixture
from jaxgmm._model import families
from jaxgmm._model.prior import Prior
from jaxgmm._model.tails import Tails
from jaxgmm._model.views import Expectation, Mode, Sample
from jaxgmm._numerics.devices import is_local

_NODES: dict[str, Any] = {
    node.__name__: node
    for node in (
        *(
            EM,
            CAVI,
            TruncatedEM,
            TruncatedCAVI,
            Kept,
            SVI,
            NaturalSVI,
            NaturalGradient,
            Squarem,
            Annealed,
        ),
        *(State, Memory, Trace, Extrapolation, Mixture, Potentials, Stats, Prior, Rows),
        *(StudentTMixture, Tails),
        *(Mode, Expectation, Sample, Result),
        *(Progress, Round, Stage),
        *families.ALL,
    )
}
# Classes that are no pytrees, and all that their instances hold.
_OBJECTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Selection": (Selection, ("criterion", "interrupted", "states", "table")),
}
# Public states of optax: named tuples of arrays and of one another.
_OPTAX = (
    *("AddNoiseState", "ApplyEvery", "ApplyIfFiniteState", "ConditionallyMaskState"),
    *("ConditionallyTransformState", "EmaState", "EmptyState", "FactoredState"),
    *("InjectHyperparamsState", "InjectStatefulHyperparamsState", "LookaheadState"),
    *("MaskedNode", "MaskedState", "MultiStepsState", "PartitionState"),
    *("ScaleByAdaDeltaState", "ScaleByAdamState", "ScaleByAdanState", "ScaleByAmsgradState"),
    *("ScaleByBacktrackingLinesearchState", "ScaleByBeliefState", "ScaleByLBFGSState"),
    *("ScaleByLionState", "ScaleByNovogradState", "ScaleByRStdDevState", "ScaleByRmsState"),
    *("ScaleByRpropState", "ScaleByRssState", "ScaleBySM3State", "ScaleByScheduleState"),
    *("ScaleByZoomLinesearchState", "TraceState", "ZeroNansState", "ZoomLinesearchInfo"),
    *("contrib.ReduceLROnPlateauState", "contrib.ScheduleFreeState"),
)
_SCALARS = (bool, int, float, str, type(None))


@functools.cache
def _optax_types() -> dict[str, Any]:
    """Those that the installed optax has, by name."""
    import optax
    import optax.contrib

    found = {}
    for name in _OPTAX:
        try:
            found[f"optax.{name}"] = operator.attrgetter(name)(optax)
        except AttributeError:
            continue
    return found


def _type_of(label: str) -> tuple[Any, tuple[str, ...]]:
    """A type that may be in a file and the names of its fields; None and () for any other."""
    if label in _OBJECTS:
        return _OBJECTS[label]
    kind = _optax_types().get(label) if label.startswith("optax.") else _NODES.get(label)
    if dataclasses.is_dataclass(kind):
        return kind, tuple(f.name for f in dataclasses.fields(kind))
    return kind, getattr(kind, "_fields", ())


def _defaults(kind: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields that have a default, of a class of the package."""
    if not dataclasses.is_dataclass(kind):
        return {}
    given = {f.name: f.default for f in dataclasses.fields(kind)}
    return {n: given[n] for n in names if given[n] is not dataclasses.MISSING}


@dataclasses.dataclass(frozen=True)
class MissingOptimizer:
    """Stands in an `SVI` that was loaded for its optimiser, functions that no file can hold."""

    def __call__(self, *args: Any) -> Any:
        raise ValueError(
            "this SVI was loaded from a file, which cannot hold an optimiser: load it with "
            "jaxgmm.load(path, optimizer=...), the same that jaxgmm.svi was given."
        )

    init = update = __call__


class CannotLoadError(ValueError):
    """A sound file that cannot be loaded here, with what to do."""


def encode(node: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for a tree; its arrays go into ``arrays``, under names that say where they were."""

    def each(fields: Any) -> dict[str, Any]:
        return {n: encode(v, f"{name}.{n}".lstrip("."), arrays) for n, v in fields.items()}

    kind = type(node)
    if kind in _SCALARS:
        return node
    if isinstance(node, Array | np.ndarray | np.generic):
        return _encode_array(node, name or "array", arrays)
    if kind in (tuple, list):
        return {kind.__name__: list(each({str(i): v for i, v in enumerate(node)}).values())}
    if kind is dict and all(isinstance(key, str) for key in node):
        return {"dict": each(node)}
    for label in (kind.__name__, f"optax.{kind.__name__}", f"optax.contrib.{kind.__name__}"):
        known, fields = _type_of(label)
        if kind is known:
            values = {n: getattr(node, n) for n in fields}
            if kind is SVI:
                values["optimizer"] = None
            return {"type": label, "fields": each(values)}
    raise ValueError(
        f"cannot save {name or 'this'}: {kind.__module__}.{kind.__qualname__} is none of the "
        "types that a file can hold (fits, priors, algorithms, and the public states of optax). "
        "For an optimiser's state of another type, save without it, "
        "dataclasses.replace(state, memory=()), and go on later from algorithm.init(key, x, state)."
    )


def _encode_array(a: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if isinstance(a, Tracer):
        raise ValueError(f"cannot save {name}, which is traced; call jaxgmm.save outside of jit.")
    if not is_local(a):
        raise ValueError(
            f"cannot save {name}, of which this process has only a part; gather it first, with "
            "jax.experimental.multihost_utils.process_allgather(obj, tiled=True)."
        )
    out: dict[str, Any] = {"array": name}
    if not isinstance(a, Array):
        if a.dtype.kind in "US":
            return {"strings": a.astype(str).tolist()}
        out["kind"] = "numpy"
    elif jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        out["kind"] = f"key {jax.random.key_impl(a)}"
        a = jax.random.key_data(a)
    elif a.weak_type:
        out["kind"] = "weak"
    # keys of dictionaries may be anything
    while out["array"] in arrays or out["array"] == "__metadata__":
        out["array"] += "_"
    arrays[out["array"]] = np.asarray(a)
    return out


class Reader:
    """Builds the tree again, of the types that are listed above and of no other."""

    def __init__(self, arrays: dict[str, np.ndarray], optimizer: Any):
        self.arrays = arrays
        self.unused = set(arrays)
        self.optimizer = optimizer
        self.took_optimizer = False

    def decode(self, node: Any) -> Any:
        if type(node) in _SCALARS:
            return node
        if "array" in node:
            self.unused.remove(node["array"])
            return _decode_array(node["array"], self.arrays[node["array"]], node.get("kind", ""))
        if "strings" in node:
            return np.array(node["strings"], dtype=str)
        if "tuple" in node or "list" in node:
            kind, values = (tuple, node["tuple"]) if "tuple" in node else (list, node["list"])
            return kind(self.decode(value) for value in values)
        if "dict" in node:
            return {name: self.decode(value) for name, value in node["dict"].items()}
        fields = {name: self.decode(value) for name, value in node["fields"].items()}
        return self.build(node["type"], fields)

    def build(self, name: str, fields: dict[str, Any]) -> Any:
        kind, names = _type_of(name)
        # a file of an earlier version lacks a later one's fields
        whole = {**_defaults(kind, names), **fields}
        if kind is None or set(names) != set(whole):
            raise CannotLoadError(
                f"it has a {name} with the fields {', '.join(fields) or '-'}, but what is "
                f"installed has {'none' if kind is None else 'one with ' + ', '.join(names)}; "
                "install the versions of jaxgmm and optax that wrote it."
            )
        if name in _OBJECTS:
            out = object.__new__(kind)
            vars(out).update(fields)
            return out
        if kind is SVI:
            return self.svi(fields)
        return kind(**fields)

    def svi(self, fields: dict[str, Any]) -> Algorithm:
        if self.optimizer is None:
            fields["optimizer"] = MissingOptimizer()
            return SVI(**fields)
        self.took_optimizer = True
        rate = fields.pop("learning_rate")
        fields["learning_rate"] = None if rate is None else float(rate)
        view = fields.pop("view")
        fields["view"] = view.name
        if isinstance(view, Sample):
            fields |= {"n_draws": view.n_draws, "divergence": view.divergence}
        try:
            return svi(**(fields | {"optimizer": self.optimizer}))
        except ValueError as error:
            raise CannotLoadError(str(error)) from error


def _decode_array(name: str, a: np.ndarray, kind: str) -> Any:
    if kind == "numpy":
        return a.copy()  # the bytes of a file cannot be written to
    out = jnp.asarray(a)
    if out.dtype != a.dtype:
        raise CannotLoadError(
            f"{name} is {a.dtype}, but JAX has 64-bit types disabled and would round it; call "
            'jax.config.update("jax_enable_x64", True) first.'
        )
    if kind.startswith("key "):
        return jax.random.wrap_key_data(out, impl=kind.removeprefix("key "))
    if kind != "weak":
        return out
    # an update keeps the type that it updates, and its weakness
    with jax.enable_x64(a.dtype.itemsize == 8):
        return jnp.full(a.shape, 0 if a.dtype.kind == "i" else 0.0).at[...].set(a)
