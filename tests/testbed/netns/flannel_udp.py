"""flannel's udp proxy as far as its peers can see it: bare IPv4 packets in UDP, to and from a TUN device.

A program by itself, with nothing of overlayd's in it: `flannel_udp.py ADDRESS SUBNET=PEER …`, in a host's namespace.
The device is flannel0; whoever starts it gives it an address. It ends when its standard input does.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import select
import socket
import struct
import sys

PORT = 8285
TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x1001


def one_hop_less(packet: bytes) -> bytes | None:
    """The IPv4 packet with one hop less and its checksum made anew; None if it is none, or has no hop left."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    length = (packet[0] & 15) * 4
    if packet[8] <= 1:
        return None
    header = bytearray(packet[:length])
    header[8] -= 1
    header[10:12] = b"\0\0"
    total = sum(struct.unpack(f"!{length // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = struct.pack("!H", ~total & 0xFFFF)
    return bytes(header) + packet[length:]


def main(local: str, *peers: str) -> None:
    """Carry packets until standard input ends."""
    table = [(ipaddress.ip_network(subnet), address) for subnet, address in (peer.split("=") for peer in peers)]
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"flannel0", IFF_TUN_NO_PI))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((local, PORT))
    os.write(sys.stdout.fileno(), b"ready\n")
    while True:
        ready, _, _ = select.select([tun, udp, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        if tun in ready:
            packet = one_hop_less(os.read(tun, 65536))
            for subnet, address in table:
                if packet and ipaddress.ip_address(packet[16:20]) in subnet:
                    udp.sendto(packet, (address, PORT))
        if udp in ready:
            packet = one_hop_less(udp.recv(65536))
            if packet:
                os.write(tun, packet)


if __name__ == "__main__":
    main(*sys.argv[1:])
