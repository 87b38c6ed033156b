"""The rules of one node as items of nftables, a table for each family: what all frontends share, what each one adds,
and what has changed.
"""
