"""The image `overlayd/probe`."""
