"""The program of the child process that forgets tracked UDP flows: reading a hundred thousand of them takes long.

    request: {"flows": [{"family", "protocol", "address", "port", "keep": [[address, port], …]}, …]}

Every tracked flow to that address and port is forgotten but those to the endpoints to keep. The answer says how many.
"""

import socket
import sys
from typing import Any

from raykube.nftables.child import Answer, serve


def forget(request: dict[str, Any]) -> Answer:
    """Deletes tracked flows; the answer's `out` is how many."""
    from pyroute2 import NFCTSocket  # 100 ms, which a node without UDP Services need not pay
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    count, problems = 0, []
    for flow in request["flows"]:
        family = socket.AF_INET6 if flow["family"] == "ip6" else socket.AF_INET
        wanted = (flow["address"], flow["protocol"], flow["port"])
        keep = {tuple(endpoint) for endpoint in flow["keep"]}
        with NFCTSocket(nfgen_family=family) as conntrack:
            asked = NFCTAttrTuple(family=family, daddr=wanted[0], proto=wanted[1], dport=wanted[2])
            for entry in list(conntrack.dump(tuple_orig=asked)):
                if entry["nfgen_family"] != family:
                    continue
                there = NFCTAttrTuple.from_netlink(family, entry.get_attr("CTA_TUPLE_ORIG"))
                back = NFCTAttrTuple.from_netlink(family, entry.get_attr("CTA_TUPLE_REPLY"))
                # A kernel before 5.8 does not filter.
                if (there.daddr, there.proto, there.dport) != wanted or (back.saddr, back.sport) in keep:
                    continue
                try:
                    conntrack.entry("del", tuple_orig=there)
                    count += 1
                except Exception as error:
                    if getattr(error, "code", None) != 2:  # ENOENT: it ended by itself
                        problems.append(str(error))
    return {"code": 1 if problems else 0, "out": str(count), "error": "; ".join(problems[:3])}


if __name__ == "__main__":
    serve(int(sys.argv[1]), forget)
