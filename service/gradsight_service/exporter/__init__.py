"""The exporter: turns job records into Prometheus families, in a process of its own.

Lives here: the page (`page`), the families by job (`job_families`) and those of the fleet (`fleet_families`), and
the process (`process`). Not here: the figures of the gRPC server itself, which `serve` exposes, nor those of a
worker. Read `page.py` first.
"""
