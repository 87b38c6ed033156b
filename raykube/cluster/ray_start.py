"""`ray start` without the Ray Client server: 90 MB and an open port that nothing here uses.

Ray's command line starts it whenever grpcio is installed, and has no flag against it; with its own check answering "not
available" it does what it does on machines without grpcio.
"""

import sys

from ray.scripts import scripts


def main() -> None:
    """Runs Ray's command line with this process's arguments."""
    unavailable = ImportError("raykube does not use Ray Client")
    setattr(scripts, "get_ray_client_dependency_error", lambda: unavailable)  # noqa: B010  its module does not export it
    sys.argv[0] = "ray"
    scripts.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
