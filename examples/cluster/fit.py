"""Fit a mixture to a folder of .npy files by many processes, of which each reads its share.

    python fit.py FOLDER N_COMPONENTS [ADDRESS N_PROCESSES RANK]

Without an address, `jax.distributed` asks the cluster: SLURM, Kubernetes and Cloud TPU say by
themselves which process this is.
"""

import sys
from pathlib import Path

import jax

import jaxgmm

folder, n_components, place = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if place:
    jax.distributed.initialize(place[0], int(place[1]), int(place[2]))
else:
    jax.distributed.initialize()

files = sorted(folder.glob("*.npy"))
share = files[jax.process_index() :: jax.process_count()]
stream = jaxgmm.Stream(share)

# every process gets the same prior and the same result
algorithm = jaxgmm.em(jaxgmm.default_prior(stream, n_components))
result = jaxgmm.fit(jax.random.key(0), stream, algorithm)
if jax.process_index() == 0:
    print(f"{stream.n_samples} rows in {len(files)} files, {jax.process_count()} processes")
    print(result.summary())
    jaxgmm.save(folder / "mixture.npz", result)
