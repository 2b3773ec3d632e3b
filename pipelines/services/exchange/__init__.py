"""Data in and out: datasets, and Label Studio."""
