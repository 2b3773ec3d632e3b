"""Numbered migrations of the catalog's schema. A published one is never edited."""
