"""Custom nodes for ComfyUI. `clinic export-comfyui DIR` writes this folder, with a detector beside it.

It imports nothing of Artifact Clinic: torch, numpy and transformers only, as ComfyUI brings them.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
