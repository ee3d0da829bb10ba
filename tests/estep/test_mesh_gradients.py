"""Gradients of sums over devices, in a process that has two."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "programs" / "mesh_gradients.py"


def test_gradients_on_a_mesh_are_those_of_one_device():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    gaps = dict(line.split() for line in done.stdout.splitlines())
    assert set(gaps) == {"evidence", "of_statistics"}
    # in float64, up to rounding; a gradient without the devices' sum is half as large
    assert max(float(gap) for gap in gaps.values()) < 1e-12
