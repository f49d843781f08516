"""This host under one network config: its backend, firewall and docker, kept as they should be."""
