"""This host under one network config: `host` has its lease and its parts (`parts`), each a module that keeps one thing.

What is written on a host, and when, belongs here; how it is written belongs to the rooms below.
"""
