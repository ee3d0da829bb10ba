"""What goes wrong with the rows of a stream while they are read."""

from typing import Any


class StreamError(RuntimeError):
    """A stream failed, ended early, or gave other rows than before.

    Attributes:
        result: of a fit, as it was after the last pass that was complete; or None. It is an
            `init` to go on from.
    """

    result: Any = None
