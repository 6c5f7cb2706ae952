"""What `apdm doctor` looks at: this installation, this machine, and what lies in the runs.

Each file holds the checks of one area. A check reports findings and raises nothing that it can
foresee; what it could not foresee becomes a finding too.
"""
