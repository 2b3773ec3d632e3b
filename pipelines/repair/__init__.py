"""Repair of images with registered models: files with a report and a gallery, or images of the catalog."""
