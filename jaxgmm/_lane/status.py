"""What became of a lane: a code that travels through compiled loops, and a sentence for people."""

from enum import IntEnum


class Status(IntEnum):
    """Status of a lane. The value is a leaf of the state; the sentence is `message`."""

    RUNNING = 0
    CONVERGED = 1
    MAX_ITERATIONS = 2
    NONFINITE = 3
    COLLAPSED = 4
    DECREASED = 5
    DROPPED = 6

    @property
    def message(self) -> str:
        """One sentence: what happened, and what can be done."""
        return _MESSAGES[self]

    @property
    def failed(self) -> bool:
        """Whether the lane's estimate must not be used."""
        return self in (Status.NONFINITE, Status.COLLAPSED, Status.DECREASED)


_MESSAGES = {
    Status.RUNNING: "Stopped before it finished, by hand; it can be continued from its state.",
    Status.CONVERGED: "The objective changed by no more than tol per sample.",
    Status.MAX_ITERATIONS: (
        "Did max_iter iterations without meeting tol; raise max_iter, or tol if this is close "
        "enough, unless a schedule of the step size ended here by design."
    ),
    Status.NONFINITE: (
        "A parameter or the objective became NaN or infinite; rescale the data, lower the step "
        "size, or use float64."
    ),
    Status.COLLAPSED: (
        "A component is empty or rests on too few samples, or its covariance vanishes in some "
        "direction, as it does where a column is constant or duplicated; fit fewer components, "
        "use a prior (jaxgmm.default_prior), or set reg_covar."
    ),
    Status.DECREASED: (
        "The objective went down by more than rounding explains, which this algorithm should "
        "never do; use float64, and report it if it persists."
    ),
    Status.DROPPED: "Beaten by other lanes, and stopped early; it keeps its last state.",
}

# codes for use inside compiled loops
FAILED = tuple(int(s) for s in Status if s.failed)
