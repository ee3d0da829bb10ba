"""Other coordinates of the data: an affine map, as much of one as a structure can follow."""

from typing import Any

import numpy as np

from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import led
from jaxgmm._numerics.pytree import pytree


@pytree
class Affine:
    """``(x - before) @ matrix + after``.

    A map and its inverse subtract the same point before they scale, and add it after they have
    scaled back, so that neither loses digits to an offset of the data.

    Attributes:
        before: ``(D,)``, subtracted first.
        matrix: ``(D, D)``; ``(D,)``, one factor for each feature; or ``()``, one for all of them.
        after: ``(D,)``, added last.
    """

    before: Any
    matrix: Any
    after: Any

    def points(self, x: Any) -> Any:
        """Points ``(..., D)`` in the new coordinates."""
        moved = x - led(self.before, x)
        if np.ndim(self.matrix) < 2:
            moved = moved * led(self.matrix, moved)
        else:  # NumPy's arrays stay NumPy's, of 64 bits
            on_host = isinstance(moved, np.ndarray)
            moved = moved @ self.matrix if on_host else linalg.matmul(moved, self.matrix)
        return moved + led(self.after, moved)

    def inverse(self) -> "Affine":
        """The map back; of NumPy arrays."""
        square = np.ndim(self.matrix) == 2
        matrix = np.linalg.inv(self.matrix) if square else 1 / np.asarray(self.matrix)
        return Affine(self.after, matrix, self.before)

    def log_det(self) -> float:
        """Log of what it multiplies volumes with; of NumPy arrays."""
        if np.ndim(self.matrix) == 2:
            return float(np.linalg.slogdet(self.matrix)[1])
        factors = np.broadcast_to(self.matrix, np.shape(self.before))
        return float(np.sum(np.log(factors)))
