"""Training detectors outside rounds: what to start from, by which recipe, here or on a worker."""
