"""The method: Direct Protective Optimization and Learning-to-Protect (arXiv 2511.01307)."""
