"""Generator families: one pipeline class each, behind one Protocol."""
