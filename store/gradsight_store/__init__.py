"""The truth about jobs: records, rules, the commit of their changes, event logs, leases, workers, artifacts.

Here lives everything that knows a Redis key, and the one set of rules by which jobs change. Not here: gRPC,
training, dispatching as a process. Operations do no I/O; two thin drivers carry them out (`store.Store` for
threads, `async_store.AsyncStore` for asyncio). Read `operations.py` first, then `rules.py` and `commits.py`.
"""
