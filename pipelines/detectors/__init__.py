"""Training, prediction and evaluation of detectors in a workspace."""
