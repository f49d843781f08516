"""overlayd.conf(5): a host's settings, and the network config that all hosts share."""

from __future__ import annotations

from overlayd import __version__
from rpm.docs import network_config, program
from rpm.docs.roff import Page

NETWORK_CONFIGS = (
    """\
{"Network": "10.42.0.0/16", "SubnetMin": "10.42.4.0",
 "Backend": {"Type": "vxlan", "DirectRouting": true}}""",
    """\
{"Network": "10.42.0.0/16", "EnableIPv6": true, "IPv6Network": "fd42::/48",
 "Backend": {"Type": "auto"}}""",
)


def page(date: str) -> str:
    """The page's source."""
    it = Page("overlayd.conf", 5, date=date, source=f"overlayd {__version__}")
    it.named("settings of a host, and the network config, of overlayd")
    it.section("SYNOPSIS")
    it.line("`/etc/sysconfig/overlayd`")
    it.line("etcd: PREFIX`/config`")
    it.section("DESCRIPTION")
    it.paragraph(
        "What one host decides for itself is in /etc/sysconfig/overlayd: lines of `KEY=value`, as systemd reads an "
        "EnvironmentFile. A line that begins with # or ; is a comment. A key that begins with OVERLAYD_ and is not "
        "listed here is an error. Only root reads the file, as it may hold etcd's password."
    )
    it.paragraph(
        "Every setting is a flag of every command too, and a variable of the environment, also under flannel's name; "
        "what is nearer to the command line wins: the flag, OVERLAYD_… in the environment, FLANNELD_… in the "
        "environment, the file, the default. An empty value counts as none. The daemon reads the file when it starts: "
        "`systemctl restart overlayd` after a change leaves docker and the packets alone."
    )
    it.paragraph("What all hosts share is in etcd, see NETWORK CONFIG.")
    it.section("SETTINGS")
    for setting in program.settings():
        _setting(it, setting)
    it.item("`OVERLAYD_OPTIONS`", "More flags for `overlayd run`, as overlayd.service starts it.")
    _network_config(it)
    it.section("EXAMPLES")
    it.paragraph("A host's settings:")
    it.example(
        (
            "OVERLAYD_ETCD_ENDPOINTS=https://192.0.2.10:2379,https://192.0.2.11:2379",
            "OVERLAYD_ETCD_CAFILE=/etc/overlayd/ca.pem",
            "OVERLAYD_ETCD_USERNAME=overlayd",
            "OVERLAYD_ETCD_PASSWORD_FILE=/etc/overlayd/etcd-password",
            "OVERLAYD_IFACE=eth1",
        )
    )
    it.paragraph("Network configs: subnets from the fifth on, and direct routes; and one of both IP versions:")
    for text in NETWORK_CONFIGS:
        it.example(text.splitlines())
    it.section("SEE ALSO")
    it.line("`overlayd`(8), `systemd.exec`(5)")
    return it.text()


def _setting(it: Page, setting: program.Setting) -> None:
    facts = [
        f"Flag {_typed(setting.flags)}; also read: {_typed(setting.flannel)}.",
        f"Allowed: {setting.allowed}{'; several, comma separated' * setting.many}.",
        f"Default: {setting.default or 'none'}.",
    ]
    it.item(f"`{setting.variable}`", program.sentence(setting.help), " ".join(facts))


def _typed(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _network_config(it: Page) -> None:
    it.section("NETWORK CONFIG")
    it.paragraph(
        "One JSON object in etcd, under `/config` below `OVERLAYD_ETCD_PREFIX`, the same as flannel's. "
        "`overlayd config set` checks and writes it, `overlayd config get` prints it. Keys are read in any case; a key "
        "that is not listed here is an error. Running daemons follow a change; one that breaks a rule is reported, and "
        "the last good config stays in force."
    )
    for key, text in network_config.KEYS.items():
        it.item(f"`{key}`", text)
    it.subsection("Backends")
    for kind, text, keys in network_config.backend_pages():
        it.item(f"`{kind}`", text)
        if keys:
            with it.indented():
                for key, meaning in keys.items():
                    it.item(f"`{key}`", meaning)
