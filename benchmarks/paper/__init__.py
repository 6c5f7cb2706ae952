"""The paper's tables: a TOML file each, and one runner that drives the `apdm` commands."""
