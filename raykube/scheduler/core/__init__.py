"""The scheduler's decisions, pure: (nodes and pods as columns, a pending pod) → a node, or why there is none.

- `requirements`: what a pod asks for, parsed once per class of identical pods.
- `nodes`: the nodes as numpy columns, one row each, updated in place.
- `plugin`, `filters`, `scores`: what lets a pod on a node, and how much a node is liked; each a small file.
- `terms`, `taints`, `spread`, `affinity`: what they need to know, on columns and count vectors.
- `podclass`: a class's rows and totals, kept current row by row.
- `cluster`: all of it together: `on_node`, `on_pod`, `schedule`, `forget`.
- `diagnosis`: the words for a pod that fits nowhere.
- `queue`: which pod is next.
- `profile`, `configuration`: which plugins with which weights and arguments, by schedulerName.

The page with drawings is raykube/scheduler/DESIGN.md.
"""
