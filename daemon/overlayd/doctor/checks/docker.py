"""Docker's part: its bridge on the leased subnet, with the options of the lease. Pure."""

from __future__ import annotations

from overlayd.addresses import IPInterface, first_host
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, ok, problem, unknown, warning

BRIDGE = "docker0"
DROP_INS = ("50-overlayd.conf", "zz-overlayd.conf")


def bridge(facts: Facts) -> Finding:
    """Whether docker0 carries the leased subnet."""
    link, subnets = facts.host.link(BRIDGE), facts.network.subnets if facts.network else ()
    if link is None:
        return warning("docker-bridge", f"no {BRIDGE} here: docker has not started", remedy="systemctl start docker")
    if not subnets:
        return unknown("docker-bridge", "no lease to compare with")
    if not link.up:
        # The kernel forgot the IPv6 addresses when it went down.
        lost = [first_host(subnet) for subnet in subnets if first_host(subnet) not in link.addresses]
        remedy = f"ip link set dev {BRIDGE} up"
        remedy += "".join(f" && ip address add {one} dev {BRIDGE}{_nodad(one)}" for one in lost)
        return problem("docker-bridge", f"{BRIDGE} is down", remedy=remedy)
    missing = [subnet for subnet in subnets if first_host(subnet) not in link.addresses]
    if missing:
        has = ", ".join(str(one) for one in link.addresses if not one.is_link_local) or "no address"
        return problem(
            "docker-bridge",
            f"{BRIDGE} has {has}, not the leased {missing[0]}: containers cannot be reached",
            remedy="systemctl restart docker",
        )
    return ok("docker-bridge", f"{BRIDGE} is on {', '.join(map(str, subnets))}")


def daemon_json(facts: Facts) -> Finding | None:
    """Whether daemon.json leaves to the lease what is the lease's."""
    if not facts.docker.conflicts:
        return ok("daemon-json", "leaves bip, mtu and ip-masq to the lease") if facts.docker.installed else None
    return problem(
        "daemon-json",
        "; ".join(facts.docker.conflicts),
        advice="edit /etc/docker/daemon.json, then systemctl restart docker",
    )


def drop_in(facts: Facts) -> Finding | None:
    """Whether docker.service waits for overlayd and takes its options."""
    if not facts.docker.installed:
        return None
    if facts.docker.drop_ins is None:
        return unknown(
            "docker-drop-in", "systemd does not say; without it, docker.env must be given to dockerd by hand"
        )
    missing = [name for name in DROP_INS if name not in facts.docker.drop_ins]
    if missing:
        return problem(
            "docker-drop-in",
            f"docker.service has no {', '.join(missing)}: docker starts without its subnet",
            remedy="systemctl enable overlayd && systemctl daemon-reload",
        )
    return ok("docker-drop-in", "docker.service takes its options from the lease")


def _nodad(address: IPInterface) -> str:
    # Docker asks nobody either whether it is somebody's already.
    return " nodad" if address.version == 6 else ""


CHECKS = (bridge, daemon_json, drop_in)
