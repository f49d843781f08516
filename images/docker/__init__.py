"""The image `overlayd/docker`: the base with Docker, and nothing of ours."""
