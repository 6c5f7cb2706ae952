"""Finding faces in pictures, and telling people apart by them."""
