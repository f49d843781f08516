"""Hosts with systemd and a dockerd of their own: containers, or virtual machines.

- A cluster: `description` (the value), `plan` (its containers), `steps/` and `create` (making it), `site` and `machine`
  (using it), `health`, `collect` (after a failure), `task_collection` (`invoke cluster.…`).
- Hosts that are virtual machines: `virtual_machine` (disk, settings, power), `qemu`, `ssh`; `transport` is what both
  kinds of hosts have in common.
- What is measured on it: `measure`, `figures`, `report`, `flow`.
- Docker below it: `docker_engine`, `images`, `underlay`, `cgroups`, `name_lock`, `parallel`.
- Other machines of single tests: `packaged` (the RPM), `newcomer`, `roots`, `system_container`, `composing`,
  `etcd_image`, `registry`.
- Tasks and builds under test: `invoked`, `checkout`, `planned`, `traced`.
"""
