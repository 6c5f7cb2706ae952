"""Load, run and save diffusion pipelines: the only room that knows diffusers' model classes."""
