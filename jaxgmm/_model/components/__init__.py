"""Families of component parameters: a normal mean times a distribution of the precision.

``conjugate`` has all that follows from the two parts, ``precision`` what a precision has to say;
``wishart`` and ``gamma`` say it. A new family is a file here: see docs/new_family.md.
"""
