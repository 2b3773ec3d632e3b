"""Generate with the generators of a workspace, and treat them."""
