"""Jobs outside rounds, one module each."""
