"""Work on any selection of images: predict maps, assign categories, mine, pseudo-label."""
