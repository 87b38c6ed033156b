"""The API level that raykube serves."""

KUBERNETES_MAJOR = "1"
KUBERNETES_MINOR = "36"
# Build metadata keeps every `kubeVersion` constraint of a chart true, and still says whose server this is.
KUBERNETES_VERSION = "v1.36.0+raykube.1"
