"""Docker's part: its bridge on the leased subnet, with the options of the lease. Pure."""

from __future__ import annotations

from overlayd.docker.masquerade import remedy as masquerade_remedy
from overlayd.docker.remedies import START_AGAIN, onto_the_lease
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, ok, problem, unknown, warning
from overlayd.lib.addresses import IPInterface, first_host

BRIDGE = "docker0"
DROP_INS = ("50-overlayd.conf", "zz-overlayd.conf")
# docker.service comes after overlayd: told to start earlier, systemctl hangs.
WAITS = "docker waits for overlayd and is started by it: mend what the daemon waits for"


def service(facts: Facts) -> Finding | None:
    """Whether docker runs, if it should."""
    here = facts.docker
    if here.active is None:
        return None
    if here.down is None:
        state = "runs" if here.active else "is on its way" if here.on_its_way else "does not run, and is not enabled"
        return ok("docker-service", state)
    if facts.daemon.state != "ready":
        return problem("docker-service", here.down, advice=WAITS)
    if here.failed:
        return problem("docker-service", here.down, advice=f"mend that, then: {START_AGAIN}")
    return problem("docker-service", here.down, remedy="systemctl start docker")


def waits_for_etcd(facts: Facts) -> Finding | None:
    """Whether etcd may be a container of the docker that waits for overlayd, which waits for etcd."""
    servers = facts.etcd.endpoints
    answers = not servers or any(server.problem is None for server in servers)
    if not facts.docker.etcd_here or answers or facts.docker.active is not False or facts.daemon.state == "ready":
        return None
    found = "etcd is this very host and does not answer, and docker waits for overlayd, which waits for etcd"
    if facts.docker.remembered:
        return warning(
            "docker-and-etcd", found, advice="overlayd lets docker start on the subnet of its last run within a minute"
        )
    return problem(
        "docker-and-etcd",
        found,
        remedy="systemctl disable --now overlayd && systemctl start docker",
        advice="then, once etcd answers: systemctl enable --now overlayd",
    )


def options(facts: Facts) -> Finding | None:
    """Whether the dockerd that runs was started with what it has to be told now."""
    here = facts.docker
    if not here.compared:
        return None
    if here.otherwise is None:
        return ok("docker-options", "dockerd runs with the options that it should have")
    return problem(
        "docker-options",
        here.otherwise,
        remedy=None if here.conflicts or facts.daemon.state != "ready" else "overlayd docker settle",
        advice="mend what daemon-json says first" if here.conflicts else _later(facts),
    )


def masquerading(facts: Facts) -> Finding | None:
    """Whether containers reach what is outside the network, where overlayd keeps no rules."""
    network, somebody = facts.network, facts.docker.masqueraded
    if not facts.docker.left_to_others or network is None or network.subnet is None or somebody is None:
        return None
    if somebody:
        return ok("masquerading", "a rule of somebody's gives containers' packets this host's address outside")
    return problem(
        "masquerading",
        "firewall is none and ip-masq on: neither docker nor overlayd masquerades, so containers do not reach what is "
        "outside the network",
        remedy=masquerade_remedy(str(network.network), str(network.subnet)),
        advice="or set OVERLAYD_FIREWALL=auto, then systemctl restart overlayd",
    )


def bridge(facts: Facts) -> Finding:
    """Whether docker0 carries the leased subnet."""
    link, subnets = facts.host.link(BRIDGE), facts.network.subnets if facts.network else ()
    if link is None:
        return _no_bridge(facts)
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
        if facts.docker.at_rest:
            return warning(
                "docker-bridge",
                f"{BRIDGE} has {has}, not the leased {missing[0]}, and docker does not run",
                advice="it comes onto the lease when docker is started",
            )
        return problem(
            "docker-bridge",
            f"{BRIDGE} has {has}, not the leased {missing[0]}: containers cannot be reached",
            remedy=_onto_the_lease(facts),
            advice="mend what daemon-json says first" if facts.docker.conflicts else _later(facts),
        )
    return ok("docker-bridge", f"{BRIDGE} is on {', '.join(map(str, subnets))}")


def _no_bridge(facts: Facts) -> Finding:
    if facts.docker.active:
        return warning(
            "docker-bridge",
            f"no {BRIDGE} here, though docker runs: its containers have another bridge, or none",
            advice="daemon-json and docker-options say by which option; mend that, then systemctl restart docker",
        )
    if facts.docker.active is None:
        # None, or a masked one: systemctl cannot start it.
        if not facts.docker.installed:
            return warning(
                "docker-bridge",
                f"no {BRIDGE} here: docker is not installed",
                advice="install it, if it is meant to be",
            )
        return warning(
            "docker-bridge",
            f"no {BRIDGE} here, and systemd tells of no docker.service that it could start",
            advice="see systemctl status docker: is it masked? A docker without systemd is given docker.env by hand",
        )
    ready = facts.daemon.state == "ready"
    if facts.docker.on_its_way and ready:
        return warning(
            "docker-bridge",
            f"no {BRIDGE} here yet: docker is on its way",
            advice="wait for it; systemctl list-jobs says what it waits for",
        )
    return warning(
        "docker-bridge",
        f"no {BRIDGE} here: docker has not started",
        remedy="systemctl start docker" if ready and facts.docker.down is None else None,
        advice=None if ready else WAITS,
    )


def daemon_json(facts: Facts) -> Finding | None:
    """Whether daemon.json leaves to the lease what is the lease's."""
    if not facts.docker.conflicts:
        return ok("daemon-json", "leaves bip, mtu and ip-masq to the lease") if facts.docker.installed else None
    return problem(
        "daemon-json",
        "; ".join(facts.docker.conflicts),
        advice="edit the file named, then systemctl restart docker",
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
    if missing and not facts.docker.by_hand:
        return problem(
            "docker-drop-in",
            f"docker.service has no {', '.join(missing)}: docker starts without its subnet",
            remedy="systemctl enable overlayd && systemctl daemon-reload && overlayd docker settle"
            if facts.daemon.state == "ready"
            else "systemctl enable overlayd && systemctl daemon-reload",
            advice="if that changes nothing: journalctl -b | grep overlayd-docker-generator",
        )
    return ok("docker-drop-in", "docker.service takes its options from the lease")


def _nodad(address: IPInterface) -> str:
    # Docker asks nobody either whether it is somebody's already.
    return " nodad" if address.version == 6 else ""


def _later(facts: Facts) -> str | None:
    return None if facts.daemon.state == "ready" else "once the daemon is ready: overlayd docker settle"


def _onto_the_lease(facts: Facts) -> str | None:
    """What brings docker0 onto the lease."""
    if facts.docker.conflicts or facts.daemon.state != "ready":
        return None
    return onto_the_lease(live_restore=facts.docker.settings.get("live-restore") is True)


CHECKS = (service, waits_for_etcd, options, bridge, daemon_json, drop_in, masquerading)
