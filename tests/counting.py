"""The programs that JAX has compiled, by the name of the function."""

from typing import Any

import jax

compiled: list[str] = []


def _listen(event: str, _: float, **about: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(str(about.get("fun_name")))


jax.monitoring.register_event_duration_secs_listener(_listen)
