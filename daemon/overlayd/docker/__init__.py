"""docker.service and dockerd: what they are told, by whom, and when."""
