"""Reports on images: their files, contact sheets, and galleries of one page."""
