"""Leases: which host has which subnet, as etcd says; how a host acquires, renews and reserves one."""
