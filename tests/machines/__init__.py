"""Tests on hosts that are virtual machines: a kernel, a boot and a disk of their own."""
