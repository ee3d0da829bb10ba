"""A fit with programs kept in a folder: what was read from it, and what was compiled, as JSON."""

import json
import sys
from collections import Counter

import jax

import jaxgmm

found: Counter[str] = Counter()
jax.monitoring.register_event_listener(lambda event, **_: found.update([event.split("/")[-1]]))

folder = jaxgmm.cache_programs(sys.argv[1])
found.clear()
x = jax.random.normal(jax.random.key(0), (60, 2))
jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(2, 2)))
json.dump({"folder": folder, **found}, sys.stdout)
