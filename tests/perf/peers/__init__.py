"""Other programs that join containers of two hosts, measured in the same topology and run as our backends.

Each module has `NAME`, `PROGRAMS`, and `joined`, which makes the way for the length of a block. Tunnels have
`MTU_BYTES` too, which is what the program itself sets or proposes, and are started from both `End`s.
"""
