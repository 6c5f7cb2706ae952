"""How the pocket model is made: one small file per stage, run in order by `pocket_training.train`.

pictures -> autoencoder -> extractor -> latents -> text -> denoiser -> identifiers -> assembly
"""
