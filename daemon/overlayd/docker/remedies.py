"""The commands that repair docker, one text for the daemon, `overlayd docker settle` and doctor. Pure."""

from __future__ import annotations

START_AGAIN = "systemctl reset-failed docker; systemctl start docker"


def onto_the_lease(*, live_restore: bool) -> str:
    """The commands that give docker0 the leased subnet. With `live_restore` that takes containers to be stopped."""
    if not live_restore:
        return "overlayd docker settle"
    return "ids=$(docker ps -q); docker stop $ids; overlayd docker settle && docker start $ids"
