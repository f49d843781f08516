"""A cluster of containers that are hosts: one description, the steps that make it, and the proof that it works."""
