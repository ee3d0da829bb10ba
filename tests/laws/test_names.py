"""The public names: few flat ones, namespaces for the others, and where old ones have gone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import jaxgmm


def test_the_version_is_one():
    root = Path(__file__).parents[2]
    for name, line in (("CITATION.cff", "version: {}\n"), ("CHANGELOG.md", "\n## {} ")):
        assert line.format(jaxgmm.__version__) in (root / name).read_text()


def test_old_flat_names_still_work_and_say_where_they_have_gone():
    for old, new in jaxgmm._MOVED.items():
        with pytest.warns(DeprecationWarning, match=rf"use jaxgmm\.{new}\."):
            thing = getattr(jaxgmm, old)
        namespace, name = new.split(".")
        assert thing is getattr(getattr(jaxgmm, namespace), name)
        assert old not in jaxgmm.__all__


def test_names_that_are_gone_say_what_to_use():
    for old in jaxgmm._GONE:
        with pytest.raises(AttributeError, match=r"use jaxgmm\.|use -jaxgmm|views"):
            getattr(jaxgmm, old)
    with pytest.raises(AttributeError, match="no attribute 'fits'"):
        jaxgmm.fits  # noqa: B018


def test_every_public_name_is_there_and_unique():
    # streams, memoized algorithms and checkpoints came to 80 that were enough before
    assert len(jaxgmm.__all__) < 85
    for space in (jaxgmm, jaxgmm.algebra, jaxgmm.stats, jaxgmm.views):
        assert len(set(space.__all__)) == len(space.__all__)
        for name in space.__all__:
            assert getattr(space, name) is not None


BRIDGES = """
import json, sys
import jaxgmm

def there():
    return [n for n in ("matplotlib", "sklearn", "numpyro", "optax", "orbax") if n in sys.modules]

found = {"at first": there(), "dir": [n in dir(jaxgmm) for n in ("plot", "sklearn", "numpyro")]}
jaxgmm.numpyro.model
found["numpyro"] = there()
for name in ("matplotlib", "sklearn"):
    sys.modules[name] = None
for bridge in ("plot", "sklearn"):
    try:
        getattr(jaxgmm, bridge)
    except ImportError as error:
        found[bridge] = str(error)
for name in ("matplotlib", "sklearn"):
    del sys.modules[name]
found["later"] = [jaxgmm.plot.points.__name__, jaxgmm.sklearn.GaussianMixture.__name__]
json.dump(found, sys.stdout)
"""


def test_bridges_are_imported_when_they_are_used():
    done = subprocess.run(
        [sys.executable, "-c", BRIDGES], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["at first"] == []
    assert found["dir"] == [True] * 3
    assert "numpyro" in found["numpyro"]
    for bridge in ("plot", "sklearn"):
        assert f'pip install "jaxgmm[{bridge}]"' in found[bridge]
    assert found["later"] == ["points", "GaussianMixture"]


def test_names_of_scikit_learn_are_answered():
    with pytest.raises(AttributeError, match=r"use jaxgmm\.sklearn\.GaussianMixture\("):
        jaxgmm.GaussianMixture  # noqa: B018
