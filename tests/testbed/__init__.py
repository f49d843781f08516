"""What tests, the bench and `invoke cluster.up` run on: hosts (`netns/`, `cluster/`), etcd, certificates, packages."""
