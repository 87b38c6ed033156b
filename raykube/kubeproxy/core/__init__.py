"""What kube-proxy decides: which addresses to serve, by which endpoints, and which one gets the next connection."""
