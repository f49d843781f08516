"""overlayd: every container reaches every other by its own address, whichever Docker host it is on."""

__version__ = "0.1.1"
