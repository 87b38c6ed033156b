"""The REST API over HTTPS: what kubectl and every other Kubernetes client speaks."""
