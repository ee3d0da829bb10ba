"""The public names: few flat ones, namespaces for the others, and where old ones have gone."""

import pytest

import jaxgmm


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
    assert len(jaxgmm.__all__) < 75
    for space in (jaxgmm, jaxgmm.algebra, jaxgmm.stats, jaxgmm.views):
        assert len(set(space.__all__)) == len(space.__all__)
        for name in space.__all__:
            assert getattr(space, name) is not None
