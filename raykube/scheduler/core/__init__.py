"""The scheduler's decisions, pure: (nodes and pods as columns, a pending pod) → a node, or why there is none.

- `requirements`: what a pod asks for, parsed once per class of identical pods.
- `nodes`: the nodes as numpy columns, one row each, updated in place.
- `terms`, `taints`, `spread`: the constraints, evaluated on columns.
- `podclass`: a class's feasible rows and scores, kept current row by row.
- `cluster`: all of it together: `on_node`, `on_pod`, `schedule`, `assume`, `forget`.
- `diagnosis`: the words for a pod that fits nowhere.
- `queue`: which pod is next.
"""
