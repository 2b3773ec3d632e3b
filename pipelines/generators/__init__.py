"""Drawing with generators and treating them in a workspace."""
