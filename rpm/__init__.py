"""The RPM `overlayd`: the daemon frozen with PyInstaller, and what a host needs beside it."""
