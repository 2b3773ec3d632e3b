"""What of diffusers the stock family leans on: a pipeline's own call, and its path from latents to VAE."""
