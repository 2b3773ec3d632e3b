"""Finding artifacts: detectors, their training, augmentation and metrics."""
