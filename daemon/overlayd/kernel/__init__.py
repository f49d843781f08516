"""What we put in the kernel: as values (state, diff, foreign), and the modules that read and write it by netlink."""
