"""How the pocket model is made: one file per stage, run in order by `pocket_training.train`.

pictures -> captions -> autoencoder -> extractor -> latents -> text -> denoiser -> identifiers ->
assembly. `renderer` draws the pictures. None of this is part of an installation of `apdm`, whose
`apdm_cli/pocket/` has what comes out.
"""
