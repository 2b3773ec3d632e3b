"""The detector inside other people's programs: diffusers, trainers, ComfyUI."""
