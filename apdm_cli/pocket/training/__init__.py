"""How the pocket model is made: one small file per stage, run in order by `apdm_cli.pocket.train`.

pictures -> autoencoder -> extractor -> latents -> text -> denoiser -> identifiers -> assembly
"""
