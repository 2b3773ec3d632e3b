"""Teaching a generator to stop: families, differentiable sampling, objectives, tuning."""
