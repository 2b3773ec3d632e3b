"""Evaluation of a treatment: similarity, quality guard, study statistics."""
