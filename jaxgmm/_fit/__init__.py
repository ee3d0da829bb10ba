"""Many lanes to the best one, many models to the best one.

``loop`` is the compiled loop over lanes, ``driver`` the host's loop around it, whose state is a
``progress``; ``race`` drops lanes, ``moves`` and ``search`` look for better optima. `fit` and
`select` are what people call, `run` what programs do.
"""
