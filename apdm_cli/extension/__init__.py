"""The door for everybody's plugins: hooks, the manager, and what an attack and a metric are."""
