"""Push to and pull from a Label Studio server."""
