"""Hosts that are containers with systemd and a dockerd of their own."""
