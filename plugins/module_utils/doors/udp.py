# SPDX-License-Identifier: MIT
"""The 200 UDP ports that a scan asks, and what it asks them. Pure.

Which ports are commonest in the wild is somebody's measurement and somebody's data. This list is our own: names from
IANA's registry of service names and port numbers (https://www.iana.org/assignments/service-names-port-numbers), or the
product's where the registry has none or another; chosen by what can stand on a home network or on a machine like ours,
each group with its reason. Where a protocol answers only a
question of its own, that question is asked (the number of its document is beside it); elsewhere a word, which an echo
sends back and others ignore.
"""

from __future__ import annotations

from .scan import WORD

#: Reason → ports with the service's name.
GROUPS: dict[str, str] = {
    "small services of old, which answer whatever comes: of use to an attacker as amplifiers": (
        "7 echo, 9 discard, 11 systat, 13 daytime, 15 netstat, 17 qotd, 18 msp, 19 chargen, 37 time, 42 nameserver"
    ),
    "names and addresses, the first thing a machine of a network offers": (
        "53 domain, 67 bootps, 68 bootpc, 137 netbios-ns, 546 dhcpv6-client, 547 dhcpv6-server, 853 domain-s, "
        "5353 mdns, 5354 mdnsresponder, 5355 llmnr, 784 domain-quic-draft, 5300 hacl-hb, 9953 domain-alternate"
    ),
    "time": "123 ntp, 319 ptp-event, 320 ptp-general, 323 rpki-rtr, 525 timed, 4460 ntske",
    "files and boot": (
        "20 ftp-data, 21 ftp, 69 tftp, 111 sunrpc, 138 netbios-dgm, 139 netbios-ssn, 445 microsoft-ds, "
        "635 mountd-alternate, 2049 nfs, 4045 lockd, 4011 altserviceboot, 873 rsync, 548 afpovertcp, "
        "3260 iscsi-target, 2000 cisco-sccp, 2148 veritas-ucl, 7000 afs3-fileserver, 7001 afs3-callback, "
        "7002 afs3-prserver, 7003 afs3-vlserver"
    ),
    "the web over QUIC (RFC 9000), which Docker publishes like any other port": (
        "80 http, 443 https, 8000 irdmi, 8080 http-alt, 8443 pcsync-https, 3000 hbci, 5000 commplex-main, "
        "9443 tungsten-https"
    ),
    "sign-on": (
        "49 tacacs, 88 kerberos, 389 ldap, 464 kpasswd, 636 ldaps, 749 kerberos-adm, 750 kerberos-iv, "
        "1645 radius-old, 1646 radacct-old, 1812 radius, 1813 radius-acct, 2083 radsec, 3268 msft-gc, "
        "3269 msft-gc-ssl, 4444 krb524"
    ),
    "watching and logs": (
        "161 snmp, 162 snmptrap, 199 smux, 514 syslog, 601 syslog-conn, 623 asf-rmcp, 664 asf-secure-rmcp, "
        "1161 health-polling, 1162 health-trap, 2055 iop, 4739 ipfix, 6343 sflow, 8125 statsd, 8649 ganglia, "
        "9125 statsd-exporter, 9995 palace-4, 9996 palace-5, 10050 zabbix-agent, 10051 zabbix-trapper, "
        "10161 snmptls, 12201 graylog-gelf, 19999 netdata, 25826 collectd, 4317 opentelemetry, "
        "4318 opentelemetry-http, 6831 jaeger-compact, 6832 jaeger-binary, 24224 fluentd"
    ),
    "tunnels, among them the tailnet's own, and the marks of a machine that has one": (
        "500 isakmp, 1194 openvpn, 1195 openvpn-second, 1197 openvpn-third, 1198 openvpn-fourth, 1701 l2tp, "
        "1723 pptp, 3478 stun, 3479 stun-second, 3544 teredo, 4500 ipsec-nat-t, 4789 vxlan, 4790 vxlan-gpe, "
        "5349 stuns, 6081 geneve, 8472 vxlan-linux, 9993 zerotier, 41641 tailscale, 51820 wireguard, "
        "51821 wireguard-second, 655 tinc, 4754 gre-in-udp"
    ),
    "things that look for each other on a LAN": (
        "1900 ssdp, 3702 ws-discovery, 427 svrloc, 5350 pcp-multicast, 5351 nat-pmp, 5678 mikrotik-discovery, "
        "10001 ubiquiti-discovery, 8610 canon-mfnp, 8611 canon-bjnp1, 8612 canon-bjnp2, 9100 hp-pdl-datastr, "
        "631 ipp, 515 printer, 3289 epson-enpc, 32410 plex-gdm, 32412 plex-gdm-second, 32413 plex-gdm-third, "
        "32414 plex-gdm-fourth, 7359 jellyfin-discovery, 8008 chromecast, 8009 chromecast-tls, 3483 slimdevices, "
        "6667 tuya, 6668 tuya-second, 9999 kasa-discovery, 38899 wiz, 5683 coap, 5684 coaps, 1883 mqtt-sn, "
        "3671 knx-ip, 47808 bacnet, 502 modbus, 20000 dnp3, 44818 ethernet-ip, 34964 profinet-cm"
    ),
    "voice, video and games": (
        "554 rtsp, 1720 h323hostcall, 2427 mgcp-gateway, 2727 mgcp-callagent, 4569 iax, 5004 avt-profile-1, "
        "5005 avt-profile-2, 5060 sip, 5061 sips, 10000 ndmp, 19132 minecraft-bedrock, 25565 minecraft, "
        "27015 steam, 27960 quake3, 64738 mumble, 9987 teamspeak, 30000 minetest, 2302 halo"
    ),
    "clusters and data": (
        "1433 ms-sql-s, 1434 ms-sql-m, 2375 docker, 2376 docker-s, 2377 swarm, 4648 nomad-serf, 5405 corosync, "
        "7946 docker-gossip, 8301 consul-serf-lan, 8302 consul-serf-wan, 8600 consul-dns, 11211 memcached, "
        "6379 redis, 9042 cassandra"
    ),
    "routing": "520 router, 521 ripng",
    "far access": (
        "22 ssh, 177 xdmcp, 3389 ms-wbt-server, 5632 pcanywherestat, 5900 rfb, 6000 x11, 60000 mosh-first, "
        "60001 mosh, 64999 mosh-alternate"
    ),
}


def ports() -> dict[int, str]:
    """Port to the service's name, in the order of the groups."""
    found: dict[int, str] = {}
    for entries in GROUPS.values():
        for entry in entries.split(", "):
            number, _space, name = entry.partition(" ")
            found[int(number)] = name
    return found


def _name_question(name: str, kind: int, recursion: bool) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    head = b"\x4d\x75" + (b"\x01\x00" if recursion else b"\x00\x00") + b"\x00\x01\x00\x00\x00\x00\x00\x00"
    return head + labels + b"\x00" + bytes([0, kind]) + b"\x00\x01"


_SSDP = b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n'
_SIP = (
    b"OPTIONS sip:doors@invalid SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.66:5060;branch=z9hG4bKmushishi;rport\r\n"
    b"From: <sip:doors@invalid>;tag=1\r\nTo: <sip:doors@invalid>\r\nCall-ID: mushishi-doors\r\nCSeq: 1 OPTIONS\r\n"
    b"Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
#: A call of procedure 0 of the port mapper (RFC 5531), which every RPC service answers.
_RPC = bytes.fromhex("4d7573680000000000000002000186a00000000200000000" + "00000000" * 4)
#: sysDescr of the community "public" (RFC 3416).
_SNMP = bytes.fromhex("302902010104067075626c6963a01c02044d757368020100020100300e300c06082b060102010101000500")
#: A QUIC packet of a version that nobody speaks is answered with those that are (RFC 9000 §6), when it has 1200 bytes.
_QUIC = (bytes.fromhex("c01a2a3a4a08") + b"mushishi" + b"\x08" + b"mushishi").ljust(1200, b"\x00")

#: Port → question; RFC 1035, 5905, 1350, 3164, 8489, 1002, 6886, 7252, 3261, 5531, 9000 and the protocols' own papers.
QUESTIONS: dict[int, bytes] = {
    53: _name_question("version.bind", 16, True),
    5353: _name_question("_services._dns-sd._udp.local", 12, False),
    5355: _name_question("wpad", 1, False),
    8600: _name_question("consul.service.consul", 1, True),
    123: b"\x23" + b"\x00" * 47,
    69: b"\x00\x01mushishi-doors\x00octet\x00",
    111: _RPC,
    2049: _RPC.replace(bytes.fromhex("000186a0"), bytes.fromhex("000186a3")),
    137: b"\x4d\x75\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x20CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\x00\x00\x21\x00\x01",
    161: _SNMP,
    1900: _SSDP,
    5060: _SIP,
    3478: bytes.fromhex("000100002112a442") + b"mushishi-dor",
    5351: b"\x00\x00",
    5683: bytes.fromhex("40014d75bb") + b".well-known" + b"\x04core",
    11211: b"\x00\x01\x00\x00\x00\x01\x00\x00stats\r\n",
    1434: b"\x02",
    27015: b"\xff\xff\xff\xffTSource Engine Query\x00",
    443: _QUIC,
    80: _QUIC,
    8443: _QUIC,
    8080: _QUIC,
}


def questions(wanted: list[int] | None = None) -> list[list[object]]:
    """Pairs of a port and its question in hexadecimal digits, as a job of the scanner has them."""
    return [[port, QUESTIONS.get(port, WORD).hex()] for port in (wanted or ports())]
