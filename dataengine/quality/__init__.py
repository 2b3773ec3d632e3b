"""Judging what a treatment did: similarity, collapse guard, study statistics."""
