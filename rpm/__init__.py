"""The RPM `overlayd`: the daemon, frozen with PyInstaller, and the files that a host needs beside it."""
