"""The image `overlayd/base`: a system container with systemd, sshd and journald."""
