"""The embedded world: drawings with exact artifact truth, and the small models made from them."""
