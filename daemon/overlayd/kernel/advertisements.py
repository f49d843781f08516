"""Router advertisements (RFC 4861), on hosts that forward."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from overlayd.kernel import routes
from overlayd.kernel.interfaces import read_bridges

# linux/rtnetlink.h: routes that a router advertisement gave.
_RTPROT_RA = 9


def keep() -> None:
    """Keep accepting router advertisements where routes depend on them: with forwarding, a value of 1 would not.

    Documentation/networking/ip-sysctl.rst, accept_ra: 2 is the same as 1, also while forwarding. Only interfaces that
    have a route from an advertisement now, and are no bridge of guests: on any other one, and on those to come
    (`default`), a container could give this host a route.
    """
    of_guests = read_bridges().of_guests
    given = [route for route in routes.read_main(6) if route.protocol == _RTPROT_RA]
    for index in {hop.ifindex for route in given for hop in route.hops}:
        with contextlib.suppress(OSError):
            name = socket.if_indextoname(index)
            path = Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra")
            if name not in of_guests and path.read_text().strip() == "1":
                path.write_text("2\n")
