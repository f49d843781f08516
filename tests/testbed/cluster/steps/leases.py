"""Step: wait until every host holds a subnet and its docker runs on it."""

from __future__ import annotations

from overlayd.errors import CommandFailed, OverlaydError
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite

# Waiting happens inside the host: a command sent from outside every 100 ms would slow down what it waits for.
_SCRIPT = (
    "i=0; until systemctl is-active --quiet docker && test -s /run/overlayd/subnet.env; do"
    " i=$((i+1)); test $i -lt {tries} || exit 1; sleep 0.1; done 2>/dev/null"
)


def make(site: ClusterSite) -> None:
    """Wait for every host, as long as its kind may take."""
    each(wait_for, site.hosts)


def wait_for(machine: Machine) -> None:
    """Wait for one host. Raises OverlaydError with the last words of its units."""
    try:
        machine.shell(_SCRIPT.format(tries=round(machine.patience_s * 10)))
    except CommandFailed as error:
        raise OverlaydError(
            f"{machine.name} has no docker on a leased subnet within {machine.patience_s:g} s\n{_last_words(machine)}"
        ) from error


def _last_words(machine: Machine) -> str:
    try:
        return machine.shell("journalctl --no-pager --lines=15 --unit=overlayd --unit=docker 2>&1")
    except CommandFailed as error:
        return error.message
