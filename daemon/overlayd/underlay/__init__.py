"""The network that carries the overlay: which interface and address, and what this host needs it for."""
