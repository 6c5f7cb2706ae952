"""Runs attacks: both arms alike, timed, checkpointed and recorded, so that none grades itself."""
