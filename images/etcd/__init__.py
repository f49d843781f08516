"""The image `overlayd/etcd`."""
