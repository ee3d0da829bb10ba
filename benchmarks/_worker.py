"""A contender in a process of its own, so that no library's threads or settings touch another's."""

import multiprocessing
import os
import traceback
from importlib import import_module
from typing import Any, Self

from benchmarks._measure import Run

# Threads that wait for work by spinning take the cores from the contender whose turn it is.
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


class Worker:
    """Calls a contender in another process: ``worker() -> Run``.

    Attributes:
        about: what its maker says of it, such as ``compile_seconds``.
    """

    def __init__(self, maker: str, problem: Any):
        """Start the process and make the contender there.

        Args:
            maker: ``"module:function"``, of which the function turns the problem into a contender
                and what is to be said about it.
            problem: to be pickled.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        saved = {name: os.environ.get(name) for name in _PASSIVE}
        os.environ.update(_PASSIVE)
        try:
            self._process = context.Process(
                target=_serve, args=(theirs, maker, problem), daemon=True
            )
            self._process.start()
        finally:
            for name, value in saved.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs.close()
        self.about: dict[str, Any] = self._receive()

    def __call__(self) -> Run:
        self._pipe.send("run")
        return self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def _receive(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"a contender's process ended: {self._process.exitcode}.") from None
        if kind == "error":
            raise RuntimeError(f"a contender failed in its process:\n{value}")
        return value


def _serve(pipe: Any, maker: str, problem: Any) -> None:
    try:
        module, name = maker.split(":")
        contender, about = getattr(import_module(module), name)(problem)
        pipe.send(("ok", about))
        while True:
            try:
                pipe.recv()
            except EOFError:  # the benchmark is over
                return
            pipe.send(("ok", contender()))
    except Exception:  # any failure at all goes to the process that waits for it
        pipe.send(("error", traceback.format_exc()))
