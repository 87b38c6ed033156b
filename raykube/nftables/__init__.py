"""Tables of nftables as plain data, and the one way to install and to read them. kube-proxy and the pod network use it.

    Items ──difference──► Delta ──text──► Kernel ──► child process ──► kernel
      ▲                                     │
      └──────────── listing ◄───────────────┘

Vocabulary: an *item* is one thing in a table: a chain, a map or set, an element. A *delta* says from what to what items
change. A *table* is named as nft names it, with its family: `ip raykube-proxy`.

Rules:
- A delta is one transaction: packets meet the table before or after it, never between.
- Only the caller's table is read, changed or removed.
- Whoever makes items answers for their text: nothing here makes a stranger's words harmless.
"""
