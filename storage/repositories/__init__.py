"""Repositories: one small class per kind of record, with records in and records out."""
