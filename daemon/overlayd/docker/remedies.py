"""Commands that mend docker, said alike by the daemon, `overlayd docker settle` and doctor. Pure."""

from __future__ import annotations

START_AGAIN = "systemctl reset-failed docker; systemctl start docker"


def onto_the_lease(*, live_restore: bool) -> str:
    """The commands that bring docker0 onto the lease; with `live_restore`, it stays as it is while containers run."""
    if not live_restore:
        return "overlayd docker settle"
    return "ids=$(docker ps -q); docker stop $ids; overlayd docker settle && docker start $ids"
