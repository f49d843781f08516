"""This host under one network config: its lease, and its parts, kept as the leases ask for."""
