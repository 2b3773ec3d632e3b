"""Use cases: what desks and commands may do, one function each. Torch-free."""
