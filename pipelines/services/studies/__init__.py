"""Blind studies: open and close them, what each rater sees, results, invitations."""
