"""Import and export of data: folders, dataset formats, Label Studio."""
