"""Docker for a kubelet: a CRI v1 server that speaks the Docker Engine API.

    kubelet ──CRI──► cri, images ──► sandboxes, containers, usage ──► engine ──HTTP──► dockerd
                        │     core: CRI configuration → Engine JSON, Engine JSON → CRI status
                        ├── logs      docker's log of a container → the file in CRI's format that a kubelet reads
                        ├── network   CNI plugins, where the pod network is not docker's bridge
                        └── streams   exec, attach, port-forward over SPDY

It runs on dockerd's machine, in its PID and mount namespaces: it opens network namespaces by process id, and what it
and the kubelet write is mounted into containers.

A sandbox is a container of the pause image; the pod's containers join its network and IPC namespaces. Everything that
must outlive this program is docker's: the CRI configuration lies in labels of the container that was made of it, so
there is no state to lose. Only what carries the label `io.raykube.cri.type` is listed, touched or removed.

The Engine API is spoken with aiohttp over docker's unix socket, not through PyPI's `docker`: that one blocks, and every
running container's log, every exec and attach would hold a thread for as long as it lasts.

Not done: user namespaces of a pod's own, images as volumes, huge page limits, ambient capabilities (the Engine API
has none of them); asking for one is refused. Docker gives a privileged container every capability, so dockerd
needs them all. A terminal's lines beyond 16 KiB are joined in its log.
"""
