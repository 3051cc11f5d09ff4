"""Reads a page from standard input as prometheus_client reads it (`text` or `openmetrics`), and prints its series, one a line."""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

for family in {"text": text, "openmetrics": openmetrics}[sys.argv[1]](sys.stdin.read()):
    for sample in family.samples:
        labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
        print(f"{sample.name}{{{labels}}} {sample.value}")
