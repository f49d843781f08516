"""The fast path: packets between containers of two hosts by BPF programs, past this host's network stack.

The programs are daemon/bpf/fastpath.bpf.c. What they leave alone goes the kernel's way, which stays whole underneath.
"""
