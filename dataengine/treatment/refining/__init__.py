"""Self-refining diffusion: fine-tuning with flaw maps."""
