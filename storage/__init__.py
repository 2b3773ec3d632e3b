"""Persistence: all SQL, all paths."""
