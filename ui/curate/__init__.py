"""The curation desk."""
