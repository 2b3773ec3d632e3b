"""The algorithms: arrays in, arrays out. No SQL, no HTTP, no Gradio, no paths of ours."""
