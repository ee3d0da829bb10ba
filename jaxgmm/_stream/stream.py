"""What a user says of rows that come in batches."""

import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxgmm._estep.rows import Rows
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int
from jaxgmm._stream.items import rows_of
from jaxgmm._stream.sources import default_batch_size, reader_of
from jaxgmm._stream.survey import Survey, batches_of, survey_of

# Rows that are kept of the first pass, unless it is said how many.
_SAMPLE = 1 << 16


class Stream:
    """Rows that come in batches, again and again: data that need not fit into memory.

    `fit` and `default_prior` take a stream in place of ``x``. Each iteration of EM or CAVI is one
    pass over all rows, whose sufficient statistics are added up batch by batch, so that the fit is
    the same as that of all rows at once. The next batch is read while one computes, and no more
    than two are in memory.

    The first pass counts and checks the rows, and keeps a sample of them, drawn without
    replacement. Starts, the race between lanes, moves, the coordinates of the fit, its notes and
    `default_prior` are of this sample alone. The best lanes then see all rows.

    Every pass must give the same rows. They may come in another order and in batches of other
    lengths: an iteration of SVI, which is a minibatch of one batch, depends on the order, and EM
    and CAVI do not.

    Args:
        source: what the batches come from:

            - an array ``(N, D)`` that is read slice by slice, such as ``numpy.memmap`` or a dataset
              of h5py; or `Rows` of such arrays;
            - the path of a ``.npy`` or ``.parquet`` file, or a list of paths;
            - a loader that can be iterated over again and again, such as PyTorch's ``DataLoader``;
            - a function without arguments that returns an iterator, which is called for every pass.

            Each batch is an array ``(n, D)``, or `Rows` where there are weights, missing values,
            noise or labels. All batches have the same fields and one dtype.
        batch_size: rows that are worked on together; by default those of four million values.
        sample_size: rows of the sample.
        seed: of the sample.

    Raises:
        ValueError: for a source that can be read once only, or not at all, and ``batch_size`` or
            ``sample_size`` below 1.

    Example:
        >>> import jax, jaxgmm, numpy as np
        >>> def batches():
        ...     rng = np.random.default_rng(0)
        ...     for _ in range(10):
        ...         yield rng.normal(size=(1000, 2)) + 5 * rng.integers(0, 2, (1000, 1))
        >>> stream = jaxgmm.Stream(batches)
        >>> algorithm = jaxgmm.em(jaxgmm.default_prior(stream, 2))
        >>> result = jaxgmm.fit(jax.random.key(0), stream, algorithm)
        >>> stream.n_samples
        10000
        >>> result.best.status.item()
        1
    """

    @usage("jaxgmm.Stream(source)")
    def __init__(
        self,
        source: Any,
        batch_size: int | None = None,
        *,
        sample_size: int = _SAMPLE,
        seed: int = 0,
    ):
        if batch_size is not None:
            check_positive_int("batch_size", batch_size)
        check_positive_int("sample_size", sample_size)
        self.reader = reader_of(source, batch_size)
        self._batch_size, self.sample_size, self.seed = batch_size, sample_size, seed
        self._survey: Survey | None = None
        self._lock = threading.Lock()

    def survey(self) -> Survey:
        """What the first pass finds, which is made once.

        Raises:
            ValueError: for rows that no fit can use: what came in which batch.
            StreamError: if the source fails.
        """
        with self._lock:
            if self._survey is None:
                self._survey = survey_of(self.reader, self.sample_size, self.seed)
            return self._survey

    @property
    def batch_size(self) -> int:
        return self._batch_size or default_batch_size(self.n_features)

    @property
    def n_samples(self) -> int:
        """N, from the first pass."""
        return self.survey().n_samples

    @property
    def n_features(self) -> int:
        """D, from the first pass."""
        return self.survey().n_features

    def sample(self) -> Rows:
        """The rows that were kept of the first pass, as NumPy's arrays.

        Where they are not all rows, their weights add up to those of all.
        """
        return self.survey().sample

    def __iter__(self) -> Iterator[Any]:
        """The batches of one pass: arrays ``(n, D)``, or `Rows` where there is more to a row.

        For instance ``for batch in stream: labels = jaxgmm.predict(result, batch)``.
        """
        for number, item in enumerate(batches_of(self.reader, "a pass"), 1):
            rows = rows_of(item, number)
            yield rows.x if len(jax.tree.leaves(rows)) == 1 else rows

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise ValueError(
            "a Stream is rows that come in batches, which jaxgmm.fit and jaxgmm.default_prior take "
            "in place of x; go through it batch by batch, for instance "
            "[jaxgmm.log_prob(result, batch) for batch in stream]."
        )

    def __repr__(self) -> str:
        if self._survey is None:
            return "<jaxgmm.Stream, not read yet>"
        n, d = self.n_samples, self.n_features
        return f"<jaxgmm.Stream: {n} rows, {d} features, {self._survey.own.n_batches} batches>"
