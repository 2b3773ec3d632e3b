"""Readable results of work: sheets of images, tables, and the files of an output folder."""
