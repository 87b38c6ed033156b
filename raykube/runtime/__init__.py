"""The process runtime: a CRI v1 server whose containers are plain processes of this machine.

    kubelet ──CRI──► cri ──► containers (state) ──► programs ──► process/start.py → shim.py ──► the program
                                 │                                      │
                                 └── store (files) ◄────────────────────┘ claim, started.json, exit.json

Vocabulary: a *sandbox* is a pod's address and name, no process. A *shim* is the parent of one container's program; it
belongs to nobody, so that containers outlive the runtime, the kubelet and the actor that hosts them. A *spec* is what a
shim is told. A *skeleton* is a directory rebuilt in a mount namespace so that something can be added to it.

Containers share the machine's file tree and network. Volumes, host names and users are namespaces (root, or an ordinary
user where the machine allows user namespaces); limits are control groups where they may be written.
Not done: images.
"""
