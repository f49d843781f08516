"""overlayd(8): the program, its commands, and what it leaves on a host."""

from __future__ import annotations

from overlayd import __version__
from rpm.docs import program
from rpm.docs.roff import Page

FILES: dict[str, str] = {
    "/etc/sysconfig/overlayd": "Settings of this host, see `overlayd.conf`(5).",
    "/run/overlayd/subnet.env": "The leased subnet as FLANNEL_SUBNET and so on, in flannel's format.",
    "/run/overlayd/docker.env": "docker's options, for its unit's drop-in; docker.service has them made anew from "
    "docker.json, which is beside it, and from what docker is told else, each time before it starts.",
    "/run/overlayd/status.json": "With reach.json: what `overlayd status` prints.",
    "/run/overlayd/containers.sock": "Where the daemon asks overlayd-containers.service for sockets inside containers.",
    "/var/lib/overlayd/lease.json": "The subnet, so that this host has it again after a reboot.",
    "/var/lib/overlayd/docker.json": "What docker was told last. Where etcd has an address of this host and does not "
    "answer for half a minute, docker is let start with that: it may be the one that starts etcd.",
    "/usr/lib/systemd/system/docker.service.d/50-overlayd.conf": "Orders docker after overlayd. What docker is started "
    "with is added by a generator, while overlayd.service is enabled.",
    "/usr/lib/firewalld/policies/overlayd-forward.xml": "With overlayd-input.xml there, and overlayd-peers.xml and "
    "overlayd-peers6.xml in ../ipsets: empty policies and ipsets that overlayd fills while firewalld runs. It does so "
    "at runtime, again after each reload, and not with firewall=none.",
    "/usr/lib/systemd/network/05-overlayd.link": "With 05-overlayd.network, and /usr/lib/NetworkManager/conf.d/"
    "overlayd.conf: keeps others from the overlay's devices.",
}

EXAMPLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "The first host of a new network:",
        (
            "vi /etc/sysconfig/overlayd",
            'overlayd config set \'{"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}\'',
            "overlayd check",
            "systemctl enable --now overlayd",
            "overlayd status",
        ),
    ),
    (
        "A host of flannel's, while flanneld still runs; then what it says:",
        ("overlayd migrate flannel", "overlayd migrate flannel --yes"),
    ),
    ("This host leaves the network:", ("systemctl disable --now overlayd", "overlayd cleanup")),
    (
        "A healthz-port below 1024 needs one capability more, by `systemctl edit overlayd`:",
        ("[Service]", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"),
    ),
)


def page(date: str) -> str:
    """The page's source."""
    it = Page("overlayd", 8, date=date, source=f"overlayd {__version__}")
    it.named("cross-host networking for plain Docker")
    it.section("SYNOPSIS")
    for command in program.commands():
        it.line(command.synopsis)
    it.section("DESCRIPTION")
    it.paragraph(
        "Containers on different Docker hosts reach each other by their own addresses. Each host leases a subnet of "
        "the overlay network in etcd; docker starts after that, on its subnet; packets between hosts go by the backend "
        "that the network config names. Hosts that run flannel can share the network."
    )
    it.section("COMMANDS")
    for command in program.commands():
        it.subsection(f"overlayd {command.name}")
        it.paragraph(" ".join([program.sentence(command.help), command.manual, *command.needs]).strip())
        for action in command.options:
            it.item(program.term(action), program.explained(action))
    _options(it)
    it.section("EXIT STATUS")
    for number, text in program.exit_statuses():
        it.item(f"`{number}`", program.sentence(text))
    it.section("FILES")
    for path, text in FILES.items():
        it.item(f"`{path}`", text)
    it.section("ENVIRONMENT")
    it.item("`OVERLAYD_…`, `FLANNELD_…`", "Settings, see `overlayd.conf`(5).")
    it.item("`NOTIFY_SOCKET`", "Where systemd is told that the daemon is ready, and what it waits for.")
    it.item("`JOURNAL_STREAM`", "Set by systemd: lines of the log then begin with their priority.")
    it.section("SIGNALS")
    it.item("`SIGTERM`, `SIGINT`", "The daemon stops and leaves the data path in place.")
    it.section("EXAMPLES")
    for text, lines in EXAMPLES:
        it.paragraph(text)
        it.example(lines)
    it.section("SEE ALSO")
    it.line("`overlayd.conf`(5), `dockerd`(8), `etcd`(1), `systemctl`(1), /usr/share/doc/overlayd/README.md")
    return it.text()


def _options(it: Page) -> None:
    it.section("OPTIONS")
    it.paragraph("Taken by every command. Settings are described in `overlayd.conf`(5).")
    it.item("`-h`, `--help`", "Say what a command takes.")
    it.item("`--version`", "Say which version this is; without a command.")
    for action in program.shared_options():
        it.item(program.term(action), program.explained(action))
    for action in program.setting_options():
        it.item(program.term(action), program.explained(action))
