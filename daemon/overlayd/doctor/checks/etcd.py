"""Whether etcd can be reached and used, and what it holds of this network. Pure."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

from overlayd.doctor.facts import EtcdFacts, Facts, PemFile
from overlayd.doctor.finding import Finding, ok, problem, unknown, warning
from overlayd.errors import StoreFull
from overlayd.lib.sanitize import plain

RENEW_WITHIN = timedelta(days=14)
CLOCK_TOLERANCE_S = 60.0


def endpoints(facts: Facts) -> Finding:
    """Which etcd servers answer."""
    there = facts.etcd.endpoints
    dead = [endpoint for endpoint in there if endpoint.problem is not None]
    message = "; ".join(f"{endpoint.name}: {endpoint.problem}" for endpoint in dead)
    if dead and len(dead) == len(there):
        return problem(message, advice=_advice(message))
    if dead:
        return warning(f"{len(there) - len(dead)} of {len(there)} answer; {message}", advice=_advice(message))
    return ok(f"{len(there)} of {len(there)} answer")


def tls_files(facts: Facts) -> Finding | None:
    """Whether the PEM files are whole, and valid today."""
    files = facts.etcd.files
    if not files:
        return None
    for file in files:
        if file.problem is not None:
            return problem(f"{file.setting}: {file.problem}", advice=f"mend {file.path} or {file.setting}")
    now = facts.host.now
    for file in files:
        for certificate in file.certificates:
            who = f"{file.path} ({certificate.subject})"
            if certificate.not_after < now:
                return problem(
                    f"{who} expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC",
                    advice=f"renew {file.path}; overlayd reads it anew by itself",
                )
            if certificate.not_before > now:
                return problem(
                    f"{who} is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC; here it is "
                    f"{now:%Y-%m-%d %H:%M}",
                    remedy="chronyc makestep",
                    advice="if this host's clock is right, the certificate is wrong",
                )
    soon = [file for file in files if _ends(file, facts)]
    if soon:
        return warning(
            "; ".join(_validity(file) for file in soon),
            advice="renew them soon; overlayd reads them anew by itself",
        )
    return ok("; ".join(_validity(file) for file in files if file.certificates))


def clock(facts: Facts) -> Finding:
    """Whether the clock agrees with etcd's. Leases end by etcd's clock; certificates are checked by this host's."""
    offsets = [endpoint.clock_offset_s for endpoint in facts.etcd.endpoints if endpoint.clock_offset_s is not None]
    if not offsets:
        return unknown("no etcd server sent its time")
    worst = max(offsets, key=abs)
    if abs(worst) > CLOCK_TOLERANCE_S:
        return warning(
            f"{abs(worst):.0f} s {'ahead of' if worst > 0 else 'behind'} etcd's, which may affect certificates",
            remedy="chronyc makestep",
        )
    return ok("differs from etcd's by less than a minute")


def store(facts: Facts) -> Finding:
    """Whether this host's user in etcd may read and write the network's keys."""
    here = facts.etcd
    lacks = [right for right in here.missing_rights if not right.endswith("/hosts/")]
    if lacks:
        return problem(f"this host's user in etcd lacks rights: {'; '.join(here.missing_rights)}", advice=_grant(here))
    if here.problem is not None:
        return problem(here.problem, advice=here.advice)
    if here.full:
        leased = bool(facts.network and facts.network.subnets)
        return (warning if leased else problem)(
            "it has no room (alarm NOSPACE): leases are prolonged, but no host gets a new one, and nothing is written",
            advice=StoreFull.HINT,
        )
    if here.missing_rights:
        return warning(
            f"this host's user in etcd lacks a right: {'; '.join(here.missing_rights)}; without it two hosts with one "
            "address are not noticed, nor does `overlayd lease` see that this host lives",
            advice=_grant(here),
        )
    return ok("the network's keys can be read and written")


def access(facts: Facts) -> Finding | None:
    """Whether anybody who reaches etcd may read or write there, and whether containers reach it."""
    here = facts.etcd
    if here.problem is not None:
        return None
    if here.open_to is None:
        return unknown("whether etcd asks for a password could not be tried")
    if not here.open_to:
        return ok("only who has a login or a certificate may read or write")
    tried = here.containers
    if tried is None:
        message = "whether containers reach it was not tried: run as root"
    elif not tried.tried:
        message = f"whether containers reach it was not tried: none runs on {tried.bridge}"
    elif tried.reached:
        message = f"containers here reach it: {', '.join(map(plain, tried.reached))}"
    else:
        message = f"{tried.tried} containers here do not reach it"
    return warning(
        f"anybody who reaches it may {here.open_to}, without a password, and whoever writes there can redirect this "
        f"network's packets; {message}",
        advice="give etcd users and TLS (etcd-setup does it: README), or let only the hosts reach it",
    )


def network_config(facts: Facts) -> Finding:
    """Whether there is a network config, and this host can serve it."""
    here = facts.etcd
    if here.problem is not None:
        return unknown("etcd does not say")
    if here.config_problem is not None:
        return problem(here.config_problem, advice=here.config_advice)
    return ok(here.config or "")


def lease(facts: Facts) -> Finding:
    """Whether this host's subnet is leased to it in etcd."""
    leases, subnets = facts.etcd.leases, facts.network.subnets if facts.network else ()
    if leases is None:
        return unknown(f"etcd does not say; last known here: {', '.join(map(str, subnets)) or 'none'}")
    if not subnets:
        if facts.daemon.running is False:
            return problem("this host holds no lease", remedy="systemctl start overlayd")
        reasons = "; ".join(facts.daemon.problems) or "see daemon"
        return problem("this host holds no lease", advice=f"the daemon runs and waits: {reasons}")
    for subnet in subnets:
        holder = next((found for found in leases if found.subnet == subnet), None)
        if holder is None:
            return problem(f"{subnet} is not leased in etcd: peers do not know it", remedy="systemctl restart overlayd")
        if holder.public_ip not in facts.underlay.public_ips:
            return problem(
                f"{subnet} is leased to {holder.public_ip}, this host is {facts.underlay.public_ip}",
                remedy="systemctl restart overlayd && systemctl restart docker",
                advice="or set public-ip or iface, if it is this host after all",
            )
    return ok(f"{', '.join(map(str, subnets))}, one of {len({found.key for found in leases})}")


def duplicate_lease(facts: Facts) -> Finding | None:
    """Two leases under one public address: two hosts that publish the wrong one, or a leftover."""
    if facts.etcd.leases is None:
        return None
    by_address = defaultdict(list)
    for found in facts.etcd.leases:
        by_address[found.public_ip].append(found)
    twice = {address: found for address, found in by_address.items() if len(found) > 1}
    if not twice:
        return ok("each public address has one lease")
    message = "; ".join(f"{address}: {', '.join(str(one.subnet) for one in found)}" for address, found in twice.items())
    make = problem if twice.keys() & set(facts.underlay.public_ips) else warning
    return make(
        f"one public address, several leases: {message}",
        advice="set OVERLAYD_IFACE or OVERLAYD_PUBLIC_IP on the host that publishes another's; leftovers expire",
    )


def _ends(file: PemFile, facts: Facts) -> bool:
    return any(certificate.not_after - facts.host.now < RENEW_WITHIN for certificate in file.certificates)


def _validity(file: PemFile) -> str:
    until = min(certificate.not_after for certificate in file.certificates)
    return f"{file.path} until {until:%Y-%m-%d}"


def _grant(here: EtcdFacts) -> str:
    return "as etcd's root: " + "; ".join(
        f"etcdctl role grant-permission ROLE {right}" for right in here.missing_rights
    )


def _advice(message: str) -> str:
    if "for learner" in message:
        return "a learner does not answer for its cluster: name the voting members (etcdctl member list)"
    if "name servers" in message or "name resolution" in message or "Name or service" in message:
        return "check the name in etcd-endpoints, /etc/hosts and /etc/resolv.conf"
    if "certificate" in message or "TLS" in message:
        return "see tls-files, clock and the names in the server's certificate"
    return "is etcd running there, and does a firewall let its port through?"


# Name and check, in the order in which a reader should mend things.
CHECKS = {
    "etcd-endpoints": endpoints,
    "tls-files": tls_files,
    "clock": clock,
    "etcd": store,
    "etcd-access": access,
    "network-config": network_config,
    "lease": lease,
    "duplicate-lease": duplicate_lease,
}
