"""Images into the workspace: uploaded, from a folder of the server, or the demo's."""
