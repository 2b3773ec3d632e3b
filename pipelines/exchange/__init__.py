"""Data in and out: folders, datasets, Label Studio."""
