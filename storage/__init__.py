"""Where things are kept: all SQL, all paths."""
