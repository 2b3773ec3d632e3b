"""Treatment of a generator: families, differentiable sampling, objectives, tuning."""
