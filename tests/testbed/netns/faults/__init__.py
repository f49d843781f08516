"""Faults of a lab, in a random order that can be repeated, and what has to hold all along.

- `fault`: one fault as a value: how it starts and stops, and which connections it may break.
- `kinds`: the faults that a lab can have. `power`: a host that loses power and returns. `clock`: one that jumps.
- `plan`: their order, from a seed. Pure.
- `echoes`: numbered packets between all containers. `foreign`: what others have in a host's kernel.
- `subnets`: who holds which subnet, as etcd and each kernel say.
- `drill`: carries a plan out, and watches. `cost`: what one fault costs.
"""
