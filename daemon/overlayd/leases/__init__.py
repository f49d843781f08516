"""Leases: which host has which subnet, as etcd says; how one is taken, renewed, reserved and remembered."""
