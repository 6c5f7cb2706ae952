"""The pocket model: weights, sample photos and a card. `pocket_training` makes them."""
