"""`clinic demo`: runs one whole round on the embedded clinic."""
