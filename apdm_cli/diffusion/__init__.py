"""What all families of models share: photos, latents, conditions, noise, pictures, saving."""
