"""Pocket-sized procedural data: portraits small enough to train on in minutes."""
