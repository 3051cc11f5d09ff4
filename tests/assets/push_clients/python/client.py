"""Pushes as a Python program does, by prometheus_client.

Arguments: URL TOKEN INSTANCE STEP..., where a step is push=N, add=N, openmetrics=N (N more orders, then PUT or POST, or PUT in the
OpenMetrics format) or delete.
"""

import sys
from urllib.request import Request, urlopen

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.exposition import default_handler, delete_from_gateway, push_to_gateway, pushadd_to_gateway
from prometheus_client.openmetrics import exposition as openmetrics

url, token, instance, *steps = sys.argv[1:]
key = {"client": "python", "path": "/var/orders", "instance": instance}
authorization = [("Authorization", f"Bearer {token}")] if token else []


def handler(url, method, timeout, headers, data):
    return default_handler(url, method, timeout, headers + authorization, data)


registry = CollectorRegistry()
orders = Counter("python_orders_total", "Orders.", ["country"], registry=registry)
queue = Gauge("python_queue_length", "Orders that wait.", registry=registry)
seconds = Histogram("python_order_seconds", "How long orders take.", buckets=[0.1, 1], registry=registry)
sizes = Summary("python_order_bytes", "How large orders are.", registry=registry)


def put_openmetrics():
    path = f"{url}/metrics/job/nightly/client/python/path@base64/L3Zhci9vcmRlcnM=/instance/{instance}"
    headers = {"Content-Type": openmetrics.CONTENT_TYPE_LATEST, **dict(authorization)}
    urlopen(Request(path, openmetrics.generate_latest(registry), headers, method="PUT"), timeout=10).close()


for step in steps:
    verb, _, number = step.partition("=")
    for _ in range(int(number or 0)):
        orders.labels("fr").inc()
        queue.set(int(number))
        seconds.observe(0.5)
        sizes.observe(100)
    if verb == "push":
        push_to_gateway(url, "nightly", registry, key, handler=handler)
    elif verb == "add":
        pushadd_to_gateway(url, "nightly", registry, key, handler=handler)
    elif verb == "openmetrics":
        put_openmetrics()
    else:
        delete_from_gateway(url, "nightly", key, handler=handler)
