"""ICMP echoes that measure whether peers answer, how fast, and which packet size gets through."""
