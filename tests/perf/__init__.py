"""The bench: figures of a cluster, measured and told. No test depends on them."""
