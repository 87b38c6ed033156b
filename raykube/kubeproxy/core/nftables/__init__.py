"""The rules of one node as a table of nftables, as plain data: what it holds, what has changed, the text that says so.

An *item* is one thing in the table, named by (container, key): an element of a map or set, a chain, or a map or set
itself. A *ruleset* is a dictionary of items; the difference of two is a *delta*; a delta becomes one transaction.
"""
