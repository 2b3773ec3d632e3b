"""Artifacts injected into clean images, by operations on pixels or by a generator that redraws a region:
exact label maps without people.

Operations on pixels measure what pre-training is worth, and may augment a training set. They are no start: a
detector trained on them alone found none of the flaws in 42 generated images.
"""
