"""The controller-manager: every controller in one process, one informer per kind, one leader.

- `core/` decides: a controller is a pure `reconcile(view, key, now) -> Plan` (see core/plan.py).
- the modules beside it carry out: caches.py (informers and indexes), runner.py (queue, bulk writes, retries of one
  controller), service.py (leadership, flags, start and stop).
"""
