"""The store beside real etcd: the same client program, the same machine, turn by turn."""
