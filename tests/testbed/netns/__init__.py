"""Hosts that are network namespaces of this machine. `lab.py` is the module to begin with: most tests need no other.

- Below the lab: `namespaces`, `dump` (of a failed host), `interpreter` (a Python for other users).
- Underlay and etcd: `segments` (a router), `etcd_members` (three), `families` (IPv4, IPv6; few subnets).
- Faults, in a random order that can be repeated: `faults/`.
- Packets: `traffic` (pings and TCP, counted), `wire` (bytes, forged and seen), `forwarder` (of backend udp).
- Netlink and WireGuard: `netlink_events`, `netlink_bytes`, `played_kernel` and `wireguard_devices`.
- Other hosts and networks: `flannel_host`, `flannel_udp`, `second_network`.
- Docker: `real_docker` (a release), `docker_site` (hosts with it), `docker_releases`, `docker_rules/` (recorded).
- Firewalls and who gets through: `firewalld`, `forwarding`, `strangers`.
- The daemon as its unit confines it: `confined`.
"""
