"""Named measurements of a whole cluster, on hollow machines: `raykube bench`."""
