"""Real processes against kills, full disks, damaged files and hostile photos."""
