"""The image `overlayd/builder`."""
