"""What tests, the bench and `invoke cluster.up` run on: hosts, etcd servers, certificates, packages."""
