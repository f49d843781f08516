"""pyroute2, as much of it as is used here: rtnetlink, WireGuard's generic netlink, sets of addresses.

`import pyroute2` by itself loads a database on sqlite3, a DHCP client, a 9P server and more: 7 MB resident, 0.1 s. Its
modules work without its `__init__`. All modules of this package import pyroute2's names from here, so that `__init__`
never runs.
"""

from __future__ import annotations

from overlayd.lib import slim_imports

_MULTIPROCESSING = slim_imports.module("multiprocessing", Pipe=None, Queue=None, Process=None)
_MOCK = slim_imports.module("unittest.mock", Mock=object)

with slim_imports.importing(
    bare=["pyroute2"],
    without={
        **slim_imports.NO_TLS_IN_ASYNCIO,
        # For sockets in other network namespaces, by a child process.
        "multiprocessing": _MULTIPROCESSING,
        # One value that is never called, in the synchronous socket.
        "unittest": slim_imports.module("unittest", mock=_MOCK),
        "unittest.mock": _MOCK,
        # Traffic control, 39 modules, and pings and TLS handshakes in the form of netlink. No message of theirs is
        # sent from here or asked for.
        "pyroute2.netlink.rtnl.tcmsg": slim_imports.module("pyroute2.netlink.rtnl.tcmsg", plugins={}, tcmsg=None),
        "pyroute2.netlink.rtnl.probe_msg": slim_imports.module(
            "pyroute2.netlink.rtnl.probe_msg", probe_msg=None, proxy_newprobe=None
        ),
    },
):
    from pyroute2.iproute.linux import IPRoute
    from pyroute2.ipset import IPSet
    from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.generic.wireguard import WireGuard, wgmsg

__all__ = ["NLM_F_ACK", "NLM_F_DUMP", "NLM_F_REQUEST", "IPRoute", "IPSet", "NetlinkError", "WireGuard", "wgmsg"]
