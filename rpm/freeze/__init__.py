"""Freezing the daemon with PyInstaller. What runs in the builder image needs the standard library only."""
