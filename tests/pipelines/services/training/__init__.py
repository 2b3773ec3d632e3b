"""Tests of trainings outside rounds."""
