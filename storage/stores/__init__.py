"""Stores outside the catalog: blobs, maps, checkpoints, snapshots, job files."""
