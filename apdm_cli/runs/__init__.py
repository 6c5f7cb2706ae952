"""Run directories: manifests, checkpoints, finished cells. Whatever is found here is whole."""
