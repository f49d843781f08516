"""What the etcd image has around etcd: checks before it starts, and the health check.

It runs on the Python that dnf brings along on any base: 3.9 and newer, the standard library only.
"""
