"""The store: plays etcd. A Raft-replicated, revisioned, watchable key space with etcd's v3 API and a batch stream.

`core/` decides (raft, mvcc, replica; pure), the modules beside it carry out: disk, network, clock. See DESIGN.md.
"""
