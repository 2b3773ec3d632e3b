"""Use cases of commands that need no workspace: they read files and write an output folder."""
