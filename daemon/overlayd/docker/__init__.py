"""Docker on this host: dockerd's options for the lease, docker.service, and how both are watched."""
