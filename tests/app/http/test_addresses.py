"""Client addresses in every spelling that connections and proxies give them."""

from __future__ import annotations

import pytest

from app.config import AddressSource
from app.http.addresses import parse_address
from app.http.request import address_finder


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:5000", "192.0.2.1"),
        ('"192.0.2.1:5000"', "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("2001:db8:0:0:0:0:0:1:50000", "2001:db8::1"),
        ("2001:db8::1:50000", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:c000:201]:80", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("", None),
        ("unknown", None),
        ("_hidden:80", None),
        ("192.0.2", None),
        ("192.0.2.1.5", None),
        ("[", None),
        ("999.0.2.1:1", None),
        ("\ud800", None),
    ],
)
def test_an_address_has_one_spelling(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("192.0.2.1:40000", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1:40001", "192.0.2.1"),
        ("203.0.113.9,[2001:db8::7]:40001", "2001:db8::7"),
        ("192.0.2.1, ", "127.0.0.1"),
        ("192.0.2.1, unknown", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_the_rightmost_member_counts_and_else_the_connection(header, address):
    find = address_finder(AddressSource.RIGHTMOST_X_FORWARDED_FOR)
    assert find({"HTTP_X_FORWARDED_FOR": header, "REMOTE_ADDR": "127.0.0.1"}) == address


def test_without_the_header_the_connection_counts():
    find = address_finder(AddressSource.X_REAL_IP)
    assert find({"REMOTE_ADDR": "::ffff:127.0.0.1"}) == "127.0.0.1"
    assert find({"REMOTE_ADDR": ""}) == ""
