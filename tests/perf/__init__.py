"""The bench measures and prints figures of a cluster and of builds. No test depends on them."""
