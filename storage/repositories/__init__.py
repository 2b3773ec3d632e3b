"""One small class for each kind of thing the catalog keeps: records in, records out."""
