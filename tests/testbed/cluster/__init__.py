"""Hosts that are containers with systemd and a dockerd of their own.

- A cluster: `description` (the value), `plan` (its containers), `steps/` and `create` (making it), `site` and `machine`
  (using it), `health`, `collect` (after a failure), `task_collection` (`invoke cluster.…`).
- What is measured on it: `measure`, `figures`, `report`, `flow`.
- Docker below it: `docker_engine`, `images`, `underlay`, `cgroups`, `name_lock`, `parallel`.
- Other machines of single tests: `packaged` (the RPM), `newcomer`, `roots`, `system_container`, `composing`,
  `etcd_image`, `registry`.
- Tasks and builds under test: `invoked`, `checkout`, `planned`, `traced`.
"""
