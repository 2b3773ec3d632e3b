"""What happens, in order: one file per stage, the round, the worker, the commands."""
