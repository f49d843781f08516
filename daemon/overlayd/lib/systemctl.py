"""What systemd says of a unit (systemctl(1), `show`)."""

from __future__ import annotations

from collections.abc import Sequence

from overlayd.errors import CommandFailed
from overlayd.lib import process

TIMEOUT_S = 5.0


def show(unit: str, properties: Sequence[str]) -> dict[str, str] | None:
    """These properties of a unit, empty where systemd does not know one; None where systemd cannot be asked.

    systemd answers of a unit that does not exist, too: its LoadState is `not-found`.
    """
    try:
        text = process.run(["systemctl", "show", unit, f"--property={','.join(properties)}"], timeout_s=TIMEOUT_S)
    except CommandFailed:
        return None
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    return {name: found.get(name, "") for name in properties}
