"""The kubelet: makes the pods that are bound to this machine run, through any CRI runtime, and tells how they are.

    apiserver ──► apipods ──┬► workers, one for each pod:  look (cri) → plan (core.plan) → act (containers, volumes)
        ▲  manifests, URL ──┘        │                                                          │
        └── statuswriter, events, node ◄──────────── status (core.status) ◄─────────────────────┘

Vocabulary: *observed* is what the runtime shows of a pod; a *plan* is the next steps for it; a *run* is one start of a
container (its *attempt* counts the runs before); a *probe* has single attempts, whose threshold gives a result.

Rules:
- Only what carries this node's label `io.raykube.node` is looked at or touched.
- All state is in the runtime and the API: a kubelet that was killed goes on where it was, and no container restarts.
- Orphans are removed only after the list of pods is complete, never because no apiserver answers.

Not done: volumes of CSI and of networks (such a pod waits with a FailedMount event).
"""
