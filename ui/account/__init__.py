"""The page of the own account."""
