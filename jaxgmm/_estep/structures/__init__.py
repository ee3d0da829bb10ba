"""Covariance structures: what the E-step must know about the shape of a precision.

A structure is the data side of a family. It says which features of a sample the logits are
linear in, how a scatter is stored, and how it is contracted with a precision factor. Several
families may share one: a known common covariance has the structure of a tied one.
"""

from jaxgmm._estep.structures import diag, full, spherical, tied
from jaxgmm._estep.structures.base import Structure

_STRUCTURES: dict[str, Structure] = {
    "full": full.Full(),
    "tied": tied.Tied(),
    "diag": diag.Diag(),
    "spherical": spherical.Spherical(),
}


def structure(name: str) -> Structure:
    """The structure called ``name``."""
    return _STRUCTURES[name]


__all__ = ["Structure", "structure"]
