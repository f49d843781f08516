"""The verdict that a host's firewall rules have for a packet, whichever program wrote the rules. All pure."""
