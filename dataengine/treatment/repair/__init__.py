"""Repair of single images: a generator redraws artifacts, and a result is taken only if it is better."""
