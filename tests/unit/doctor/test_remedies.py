"""Every remedy that the doctor can print is listed here, with the test that runs it, or why none can."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.kernel import test_remedies
from tests.kernel.test_remedies import BREAKS

DOCTOR = Path(__file__).parents[3] / "daemon/overlayd/doctor"
TESTS = Path(__file__).parents[2]
# Of a remedy, for the list below.
LONGEST = 70
SOURCES = (
    *sorted((DOCTOR / "checks").glob("*.py")),
    DOCTOR.parent / "ruleset/packet_path.py",
    DOCTOR.parent / "docker/masquerade.py",
)


def remedies() -> set[str]:
    """`module.function: words` of everything that is given as a remedy in the sources."""
    found = set()
    for path in SOURCES:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                found |= {f"{path.stem}.{function.name}: {one}" for one in _in(function)}
    return found


def _in(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        value: ast.expr | None = None
        match node:
            case ast.keyword(arg="remedy") | ast.AnnAssign(target=ast.Name(id="remedy")):
                value = node.value
            case ast.Assign(targets=[ast.Name(id="remedy")]):
                value = node.value
            case ast.Return() if function.name.endswith("remedy"):
                value = node.value
        for one in [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]:
            # What has no words of its own was made elsewhere, and is counted there.
            words = re.sub("…[ …]*", "…", "" if one is None else _words(one))
            if words.strip(" &….;"):
                yield words[:LONGEST]


def _words(value: ast.AST) -> str:
    """The words of an expression, with dots for what is put in."""
    children = [_words(one) for one in ast.iter_child_nodes(value)]
    match value:
        case ast.Constant(value=str() as text):
            return text
        case ast.Constant() | ast.Name() | ast.Attribute():
            return "…"
        case ast.JoinedStr() | ast.FormattedValue() | ast.BinOp():
            return "".join(children)
    return "…".join(text for text in children if text.strip("…"))


RUN, ELSEWHERE, NOT_RUN = "run by ", "run in ", "not run: "
NO_SYSTEMD = f"{NOT_RUN}no systemd runs in a namespace"
OF_THE_MACHINE = f"{NOT_RUN}of the whole machine, not of a network namespace"
# What is run names a break of tests/kernel/test_remedies.py, or a test there; or else another file.
LISTED: dict[str, str] = {
    "docker.drop_in: systemctl enable overlayd && systemctl daemon-reload && overlayd docke": NO_SYSTEMD,
    "docker.options: overlayd docker settle": NO_SYSTEMD,
    "docker.service: systemctl start docker": f"{ELSEWHERE}cluster/test_package.py",
    "docker.waits_for_etcd: systemctl disable --now overlayd && systemctl start docker": NO_SYSTEMD,
    "host.ipv6_disabled: sysctl -w =0": f"{ELSEWHERE}kernel/test_dual_stack.py",
    "masquerade.remedy: iptables -t nat -A POSTROUTING -s …! -d …-j MASQUERADE": f"{RUN}test_masquerading_remedy_mends",
    "underlay.container_mtu: docker restart $(docker ps -q)": f"{NOT_RUN}needs containers of a dockerd",
    "underlay.container_mtu: ids=$(docker ps -q); systemctl restart docker && docker restart $ids": NO_SYSTEMD,
    "docker.bridge: ip link set dev …up": f"{RUN}bridge down",
    "docker._no_bridge: systemctl start docker": NO_SYSTEMD,
    "docker.drop_in: systemctl enable overlayd && systemctl daemon-reload": f"{ELSEWHERE}cluster/test_package.py",
    "etcd.clock: chronyc makestep": OF_THE_MACHINE,
    "etcd.lease: systemctl restart overlayd": NO_SYSTEMD,
    "etcd.lease: systemctl restart overlayd && systemctl restart docker": NO_SYSTEMD,
    "etcd.lease: systemctl start overlayd": NO_SYSTEMD,
    "etcd.tls_files: chronyc makestep": OF_THE_MACHINE,
    "firewalld.firewalld: firewall-cmd --permanent …firewall-cmd --reload": f"{RUN}test_firewalld_remedy_mends",
    "firewalld.firewalld: firewall-cmd --reload": f"{NOT_RUN}our policies would have to be in firewalld's own folder",
    "firewalld.firewalld: systemctl restart overlayd": NO_SYSTEMD,
    "host.conntrack_table: sysctl -w net.netfilter.nf_conntrack_max=…": OF_THE_MACHINE,
    "host.daemon: systemctl enable --now overlayd": f"{ELSEWHERE}cluster/test_package.py",
    "host.daemon: systemctl start overlayd": f"{ELSEWHERE}cluster/test_package.py",
    "host.daemon: yum install overlayd": f"{NOT_RUN}no package is installed in a namespace",
    "host.fast_path: systemctl restart overlayd": NO_SYSTEMD,
    "host.ip_forward: sysctl -w net.ipv4.ip_forward=1": f"{RUN}sysctl",
    "host.ip_forward: sysctl -w net/ipv4/conf/…/forwarding=1": f"{RUN}sysctl of a device",
    "host.ipv6_forward: sysctl -w net.ipv6.conf.all.forwarding=1": f"{RUN}sysctl ipv6",
    "host.kernel_features: modprobe iptables…ip_tables": OF_THE_MACHINE,
    "host.neighbour_table: net.ipv4.neigh.default.gc_thresh…=…": OF_THE_MACHINE,
    "host.neighbour_table: sysctl -w …": OF_THE_MACHINE,
    "host.open_files: mkdir -p /etc/systemd/system/overlayd.service.d && printf '[Service]\\n": NO_SYSTEMD,
    "underlay.checksum_offload: ethtool -K …off": f"{NOT_RUN}needs a card whose driver is known to be bad",
    "underlay.container_mtu: ip link set dev …mtu …": f"{RUN}bridge's MTU",
    "underlay.interface_manager: nmcli device set …managed no": f"{NOT_RUN}no NetworkManager is here",
    "underlay.interface_manager: printf '[Match]\\nName=overlay*\\n[Link]\\nUnmanaged=yes\\n' > /etc/system": (
        NO_SYSTEMD
    ),
    "underlay.overlay_device: ip link set dev …mtu …": f"{RUN}device's MTU",
    "underlay.overlay_device: systemctl restart overlayd": f"{ELSEWHERE}cluster/test_package.py",
    "underlay.reverse_path: sysctl -w net/ipv4/conf/…/rp_filter=2": f"{RUN}way back",
    "underlay.underlay: ip link set dev …up": f"{RUN}underlay down",
    "underlay.underlay_mtu: ip link set dev …mtu …": f"{RUN}underlay's MTU",
    "packet_path._network_remedy: systemctl restart overlayd": NO_SYSTEMD,
    "packet_path._remedy: …-I …-j ACCEPT": f"{RUN}FORWARD before DOCKER-USER",
    "packet_path.drop: nft 'insert rule …accept'": f"{RUN}policy of nft",
}


def test_every_remedy_is_run_or_it_is_said_why_not() -> None:
    assert remedies() == set(LISTED)


def test_what_runs_them_is_there() -> None:
    runs = {how.removeprefix(RUN) for how in LISTED.values() if how.startswith(RUN)}
    assert runs - set(BREAKS) == {name for name in runs if hasattr(test_remedies, name)}
    elsewhere = {how.removeprefix(ELSEWHERE) for how in LISTED.values() if how.startswith(ELSEWHERE)}
    assert all((TESTS / name).exists() for name in elsewhere)
    assert all(how.startswith((RUN, ELSEWHERE, NOT_RUN)) for how in LISTED.values())
