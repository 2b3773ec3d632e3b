"""Artifacts injected into clean images by operations on pixels: exact label maps without people.

They measure what pre-training is worth, and may augment a training set. They are no start: a detector trained
on them alone found no artifact in 42 images of real generators.
"""
