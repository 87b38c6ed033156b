"""Manifests that the tests of real clients share."""

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: a, image: x, ports: [{containerPort: 80}]}
      - {name: b, image: x}
"""

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {a: "1"}
"""

POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: p}}
spec: {containers: [{name: c, image: x, command: [sleep, "1"]}]}
"""
