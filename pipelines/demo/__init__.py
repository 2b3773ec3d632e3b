"""`clinic demo`: one whole round on the embedded clinic."""
