"""The pod network of one machine: its CNI configuration, the routes to other machines' pods, and NetworkPolicy.

    own Node ────────► core.conflist ──► one file for the container runtime: bridge, addresses, host ports
    all Nodes ───────► core.routes ────► kernel routes, or a VXLAN device where machines share no segment
    Pods, Namespaces,
    NetworkPolicies ─► core.policies ──► one table of nftables

Vocabulary: a *pod CIDR* is the range of pods' addresses that a Node owns; a *peer* is another Node with its addresses
and pod CIDRs; *direct* is a route over the peer's own address, on a segment that both are on; a *tunnel* is VXLAN.

Rules:
- Only what carries our mark is read, changed or removed: routes with our protocol number, our device, tables and file.
- Everything in the kernel outlives the process. A new one compares and changes what differs.
- A pod's traffic with the machine it runs on is always allowed, as the API documents it.
"""
