"""The stages of a round, one module each."""
