"""The disk image of a host as a virtual machine, and kernels to boot it with."""
