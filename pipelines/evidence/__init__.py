"""`clinic evidence`: one whole treatment of a real model, from photographs to a study, and its report."""
