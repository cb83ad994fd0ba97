"""Reads client addresses as connections and proxy headers spell them; used by `app.http.request`."""

from __future__ import annotations

import functools
import ipaddress

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@functools.lru_cache(maxsize=1024)
def parse_address(text: str) -> str | None:
    """The IP address in one spelling, without port, brackets and zone; None if `text` has none.

    Reads `192.0.2.1`, `192.0.2.1:5000`, `2001:db8::1`, `[2001:db8::1]:443`, `fe80::1%eth0`, each also in
    double quotes. An IPv4 address that is written inside an IPv6 address is given as IPv4.
    Source: RFC 7239, section 6 (quotes and brackets); RFC 4007, section 11 (zones); RFC 4291, section
    2.5.5.2, and RFC 6052 (IPv4 inside IPv6). Azure Application Gateway and others write the port.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    text = text.partition("%")[0]
    # With a port an IPv4 address has one colon, and an IPv6 address that is written in full has eight.
    for spelling in (text, text.rpartition(":")[0]):
        try:
            address = ipaddress.ip_address(spelling)
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv6Address):
            return str(_embedded_ipv4(address) or address)
        return str(address)
    return None


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped
