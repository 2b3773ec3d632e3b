"""The worker process, its children and its queue."""
