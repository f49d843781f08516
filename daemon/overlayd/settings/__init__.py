"""The settings of this host: one table for flags, variables and files."""

from overlayd.settings.table import (
    CONFIG_FILE,
    SECRET_VARIABLES,
    Settings,
    add_flags,
    config_file,
    load,
    read_file,
    with_two_dashes,
)

__all__ = [
    "CONFIG_FILE",
    "SECRET_VARIABLES",
    "Settings",
    "add_flags",
    "config_file",
    "load",
    "read_file",
    "with_two_dashes",
]
