"""How raykube's own parts, and its users' programs, talk to the apiservers and to the store.

- `core/`: the pure machines: list-watch, work queue, leader election, event aggregation.
- `api.ApiClient`: gRPC to the live apiservers: bulk writes, reads, watches; balances and fails over.
- `informer.Informer`: a local copy of one kind, kept by a watch, with handlers and indexes.
- `worker.Worker`: a work queue with N workers around a reconcile function.
- `leader.LeaderElector`, `events.EventRecorder`.
- `facade.Client`: the synchronous client for people (`raykube.Client`).
"""
