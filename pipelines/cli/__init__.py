"""The commands of `clinic`, one file per group. Imported for `--help`, so heavy imports stay in functions."""
