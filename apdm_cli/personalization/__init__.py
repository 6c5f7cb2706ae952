"""THE training loop, shared by every attack and by Learning-to-Protect's inner path."""
