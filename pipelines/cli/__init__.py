"""What `clinic` does, one file per group of commands. Imported for `--help`, so nothing heavy at the top."""
