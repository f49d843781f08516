"""Router advertisements (RFC 4861), on hosts that forward."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from socket import AF_INET6
from typing import Any

from overlayd.kernel.interfaces import read_bridges

# linux/rtnetlink.h: routes that a router advertisement gave; the main table.
_RTPROT_RA, _TABLE_MAIN = 9, 254


def keep(ipr: Any) -> None:
    """Let interfaces that live on router advertisements go on doing so: forwarding would end that for a value of 1.

    Documentation/networking/ip-sysctl.rst, accept_ra: 2 is the same as 1, also while forwarding. Only those that have a
    route from an advertisement now, and are no bridge of guests: every other one, and those to come (`default`), would
    obey containers.
    """
    of_guests = read_bridges().of_guests
    routes = ipr.get_routes(family=AF_INET6, proto=_RTPROT_RA, table=_TABLE_MAIN)
    for index in {message.get_attr("RTA_OIF") for message in routes}:
        with contextlib.suppress(OSError):
            name = socket.if_indextoname(index)
            path = Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra")
            if name not in of_guests and path.read_text().strip() == "1":
                path.write_text("2\n")
