"""Docker on this host: dockerd's options for the lease, and when docker.service is started and restarted."""
