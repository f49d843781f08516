"""Packets sent to find out whether peers answer, how fast, and how large a packet may be: `overlayd ping`."""
