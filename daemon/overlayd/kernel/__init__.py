"""What the kernel holds for us: as values (state, diff), and the modules that talk netlink about it."""
