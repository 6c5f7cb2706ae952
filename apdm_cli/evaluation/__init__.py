"""From finished attacks to pictures, and from pictures to scores one can cite."""
