"""What goes wrong with the rows of a stream while they are read."""

from typing import Any


class StreamError(RuntimeError):
    """A stream failed, ended early, or gave other rows than before.

    Attributes:
        result: of a fit, as it was after the last pass that was complete; or None. It is an
            `init` to go on from.

    Example:
        >>> import jaxgmm, numpy as np
        >>> def batches():
        ...     yield np.zeros((10, 2))
        ...     raise OSError("the disk is gone")
        >>> try:
        ...     jaxgmm.Stream(batches).n_samples
        ... except jaxgmm.StreamError as error:
        ...     print(error)
        the stream failed at batch 2 of the first pass: OSError: the disk is gone
    """

    result: Any = None
