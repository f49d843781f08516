"""The daemon, the kernel and its limits. Pure."""

from __future__ import annotations

from overlayd import backends
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, ok, problem, unknown, warning

FULL, ALMOST_FULL = 0.95, 0.8


def settings_file(facts: Facts) -> Finding | None:
    """Whether the settings could be read; without them, the rest is about the defaults."""
    if facts.host.settings_problem is None:
        return None
    return unknown(f"{facts.host.settings_problem}: what follows is about the default settings")


def root(facts: Facts) -> Finding | None:
    """Whether this is run as root, without which much cannot be read."""
    if facts.host.root:
        return None
    return unknown("not root: rules, kernel features and other hosts' claims cannot be seen", advice="use sudo")


def daemon(facts: Facts) -> Finding:
    """Whether a daemon runs here and is ready."""
    here = facts.daemon
    if here.running is None:
        return unknown("this user may not read its run directory")
    if not here.running:
        unit = here.unit or {}
        if unit.get("LoadState") == "not-found":
            return problem("no daemon runs, and systemd knows no overlayd.service", remedy="yum install overlayd")
        enable = unit.get("UnitFileState") not in ("enabled", None)
        return problem(
            "no daemon runs on this host: nobody follows changes of peers or repairs the data path",
            remedy="systemctl enable --now overlayd" if enable else "systemctl start overlayd",
        )
    if here.state != "ready" or here.problems:
        reasons = "; ".join(here.problems) or "no reason given"
        return problem(f"the daemon is {here.state}: {reasons}", advice="its log: journalctl -u overlayd -n 50")
    return ok("runs and is ready")


def ip_forward(facts: Facts) -> Finding | None:
    """Whether this host forwards IPv4: it is the router of its containers."""
    if facts.network is not None and facts.network.ipv6 and facts.network.network is None:
        return None
    if facts.host.sysctls.get("net/ipv4/ip_forward") != "1":
        return problem("net.ipv4.ip_forward is 0: nothing is routed", remedy="sysctl -w net.ipv4.ip_forward=1")
    devices = (facts.network.bridge, *facts.network.devices_of(4)) if facts.network else ("docker0",)
    off = [name for name in devices if facts.host.sysctls.get(f"net/ipv4/conf/{name}/forwarding") == "0"]
    if off:
        return problem(
            f"on, but not on {', '.join(off)}",
            remedy="sysctl -w " + " ".join(f"net/ipv4/conf/{name}/forwarding=1" for name in off),
        )
    return ok("on")


def ipv6_forward(facts: Facts) -> Finding | None:
    """Whether this host forwards IPv6, where the network has any."""
    if facts.network is None or not facts.network.ipv6:
        return None
    if facts.host.sysctls.get("net/ipv6/conf/all/forwarding") != "1":
        return problem(
            "net.ipv6.conf.all.forwarding is 0: no IPv6 packet is routed",
            remedy="sysctl -w net.ipv6.conf.all.forwarding=1",
        )
    return ok("on")


def ipv6_disabled(facts: Facts) -> Finding | None:
    """Where IPv6 is switched off, the kernel gives no address and takes no route."""
    if not facts.etcd.ipv6 and not (facts.network is not None and facts.network.ipv6):
        return None
    underlay = facts.underlay.ifname or "all"
    settings = {name: f"net/ipv6/conf/{name}/disable_ipv6" for name in (underlay, "docker0")}
    off = [name for name, sysctl in settings.items() if facts.host.sysctls.get(sysctl) == "1"]
    if not off:
        return ok("IPv6 is on")
    advice = ["it comes back at the next boot if /etc/sysctl.conf or a file in /etc/sysctl.d has disable_ipv6"]
    if underlay in off:
        advice.insert(
            0, f"then give {facts.underlay.ifname or 'the interface'} its IPv6 address, which the kernel took"
        )
    return problem(
        f"the network has IPv6, and it is switched off on {', '.join(off)}: disable_ipv6 is 1 there",
        remedy="sysctl -w " + " ".join(f"{settings[name]}=0" for name in off),
        advice="; ".join(advice),
    )


def kernel_features(facts: Facts) -> Finding:
    """Whether the kernel has what the backend and the rules need."""
    needed = {"iptables": facts.firewall.kind == "iptables"}
    backend = backends.facts_of(facts.network.backend) if facts.network is not None else None
    if backend is not None and backend.device_kind is not None:
        needed[backend.device_kind] = True
    seen = facts.host.features
    shown = ", ".join(f"{name}: {feature.how}" for name, feature in sorted(seen.items())) or "no feature could be tried"
    missing = [name for name, wanted in needed.items() if wanted and name in seen and seen[name].there is False]
    if missing and facts.host.sysctls.get("kernel/modules_disabled") == "1":
        return problem(
            f"this kernel has no {', '.join(missing)} ({shown}), and kernel.modules_disabled is 1: no module can be "
            "loaded before the next boot",
            advice=f"write the lines {' '.join(missing)} into a file in /etc/modules-load.d, which is read before the "
            "setting is made, and reboot; or choose another backend: overlayd config set",
        )
    if missing:
        return problem(
            f"this kernel has no {', '.join(missing)} ({shown})",
            remedy="; ".join(f"modprobe {'ip_tables' if name == 'iptables' else name}" for name in missing),
            advice="or choose another backend: overlayd config set",
        )
    if any(name not in seen or seen[name].there is None for name, wanted in needed.items() if wanted):
        return unknown(shown)
    return ok(shown)


def conntrack_table(facts: Facts) -> Finding | None:
    """A full table drops new connections ("nf_conntrack: table full, dropping packet")."""
    count, most = (facts.host.number(f"net/netfilter/nf_conntrack_{word}") for word in ("count", "max"))
    if count is None or not most:
        return None
    found = f"{count} of {most} connections"
    remedy = f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}"
    if count >= FULL * most:
        return problem(f"{found}: new ones are dropped", remedy=remedy)
    if count >= ALMOST_FULL * most:
        return warning(f"{found}: almost full", remedy=remedy)
    return ok(found)


def neighbour_table(facts: Facts) -> Finding | None:
    """Every peer is a neighbour; above gc_thresh3 the kernel makes no new one ("neighbour table overflow", arp(7))."""
    most, there = facts.host.number("net/ipv4/neigh/default/gc_thresh3"), facts.host.neighbours
    if most is None or there is None:
        return None
    peers = len({lease.key for lease in facts.etcd.leases or ()})
    needed, found = max(there, peers), f"{there} entries, {peers} leases, room for {most}"
    power = 1024
    while power < 2 * needed:
        power *= 2
    # With lower values of the first two, the kernel removes entries long before the third is reached.
    remedy = " ".join(f"net.ipv4.neigh.default.gc_thresh{n}={power // d}" for n, d in ((1, 4), (2, 2), (3, 1)))
    if needed >= most:
        return problem(f"{found}: too small", remedy=f"sysctl -w {remedy}")
    if needed >= ALMOST_FULL * most or facts.host.neighbour_overflows:
        overflows = f", {facts.host.neighbour_overflows} overflows so far" if facts.host.neighbour_overflows else ""
        return warning(f"{found}{overflows}", remedy=f"sysctl -w {remedy}")
    return ok(found)


def open_files(facts: Facts) -> Finding | None:
    """A daemon without descriptors cannot talk to etcd or netlink any more."""
    used, most = facts.daemon.open_files, facts.daemon.open_files_limit
    if used is None or not most:
        return None
    found = f"the daemon has {used} of {most} files open"
    if used >= ALMOST_FULL * most:
        return problem(
            found,
            # systemctl set-property takes no limits of a process.
            remedy="mkdir -p /etc/systemd/system/overlayd.service.d && "
            "printf '[Service]\\nLimitNOFILE=65536\\n' > /etc/systemd/system/overlayd.service.d/files.conf && "
            "systemctl daemon-reload && systemctl restart overlayd",
        )
    return ok(found)


def fast_path(facts: Facts) -> Finding | None:
    """Whether packets between containers pass this host's network stack by; they are carried in any case."""
    here = facts.daemon
    if here.fast_path is None:
        return None
    if here.fast_path != "on":
        forwarder = f"; the daemon carries packets itself: {here.forwarder}" if here.forwarder else ""
        return ok(f"off: {here.fast_path}{forwarder}")
    if here.without_program:
        return warning(
            f"the daemon says on, and the kernel has no program of it at {', '.join(here.without_program)}",
            remedy="systemctl restart overlayd",
        )
    return ok("on, its programs are at the underlay and at every container")


# Name and check, in the order in which a reader should mend things.
CHECKS = {
    "settings-file": settings_file,
    "root": root,
    "daemon": daemon,
    "ip-forward": ip_forward,
    "ipv6-forward": ipv6_forward,
    "ipv6-disabled": ipv6_disabled,
    "kernel-features": kernel_features,
    "conntrack-table": conntrack_table,
    "neighbour-table": neighbour_table,
    "open-files": open_files,
    "fast-path": fast_path,
}
