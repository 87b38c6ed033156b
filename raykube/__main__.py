"""`python -m raykube`."""

from raykube.cli.main import main

if __name__ == "__main__":
    main()
