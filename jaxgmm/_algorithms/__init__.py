"""A view and an update each: EM, CAVI, SVI, and what wraps them."""
