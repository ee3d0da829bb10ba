"""The model is its prior, weights times components; a view turns it into potentials.

``prior`` has the one type of prior and posterior, ``components`` and ``weights`` have the families,
which ``families`` lists, ``views`` the three views and ``bounds`` the pieces of what they maximise.
"""
