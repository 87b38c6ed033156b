"""What the environment tells a program that uses `raykube.Client`: where its kubeconfig is, as kubectl finds it.

Components never look here: all they need is in their flags.
"""

import os
from pathlib import Path


def kubeconfig_paths() -> list[Path]:
    """`$KUBECONFIG` (a list of files), else `~/.kube/config`."""
    named = [Path(part).expanduser() for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [Path.home() / ".kube" / "config"]
