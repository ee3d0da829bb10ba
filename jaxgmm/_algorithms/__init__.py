"""A view and an update each: EM, CAVI, SVI, and what wraps them.

=============  ===================  ===============================  =============================
view / update  conjugate            natural-gradient step            optax gradient step
=============  ===================  ===============================  =============================
mode           `EM`: ML, MAP        `NaturalSVI`: stepwise EM        `SVI`: gradient EM
expectation    `CAVI`               `NaturalSVI`: stochastic VI      `SVI`: deterministic gradients
sample         -                    -                                `SVI`: reparameterised
=============  ===================  ===============================  =============================

`base` has the one iteration that they share: expect, maximise, judge. Three combinations, worked:

- EM is the view `Mode` with nothing changed: ``stats = expect(mode.potentials(q))``, then
  ``q = mode.update(prior, stats)``, and the bound is ``<stats, potentials> + entropy - penalty``.
- Stochastic VI is the view `Expectation` with another `Algorithm.maximise`: it moves a share of the
  way to the update, ``q = interpolate(q, update(prior, stats), rho)``, on minibatches, and so holds
  the monitor `Noisy`.
- Annealed CAVI is `Annealed` around `CAVI`: it changes `Algorithm.expect` alone, whose potentials
  it softens. `Squarem` around that changes `Algorithm.advance`, from where the iteration starts.

A new one: docs/new_algorithm.md.
"""
