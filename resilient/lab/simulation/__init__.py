"""A scenario, played: the world of one run, its callers with real policies, and what is recorded of them."""
