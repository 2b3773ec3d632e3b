"""Backup, garbage collection and erasure."""
