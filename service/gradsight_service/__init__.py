"""The front door of gradsight: the gRPC service, its watches, and the loops that hand jobs to workers.

Here live the two servicers, the validation of specs and their defaults, the hub behind every watch, the
dispatcher and the sweeper, the metrics port, the exporter and `gradsight up`. Not here: rules of a job's life and
Redis keys (`gradsight_store`), training (`gradsight_worker`), statistics (`gradsight_insight`). Several may run on
one store: none of them holds anything that another could miss. Read `serve.py` first, then `servicer.py`.
"""
