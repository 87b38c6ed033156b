"""The `raykube` command: one module per group of subcommands, imported when used."""
