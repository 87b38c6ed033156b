"""Clusters on Ray: where components run, how they start, how they are supervised. The only package that imports ray.

Vocabulary: a *machine* is a Ray node with its kubelet and kube-proxy; a *placement* is one actor on one machine, which
hosts one component (the kubelet's hosts the embedded runtime too); the *plan* is all placements in boot order; a
*local* cluster is one whose machines are Ray nodes that raykube started on this computer, each with an address in
127.0.0.0/8.
"""
