"""Random cases of every size, family, algorithm, dtype and kind of data, against NumPy.

``python -m tests.fuzz 0 500`` runs the cases of seeds 0 to 499 and prints a table of what failed.
"""

import sys
from pathlib import Path

# the oracle is the benchmarks' own, which a plain `pytest` has not on its path
sys.path.append(str(Path(__file__).parents[2]))
