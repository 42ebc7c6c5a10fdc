"""`gradsight up`: a store, the service, the exporter and one worker per device, on one machine, as child processes.

Lives here: the data directory with its lock (`household`), a child that is kept alive (`child`), the process that keeps
them (`keeper`) and the verbs (`verbs`). Not here: what the children do. Read `keeper.py` first.
"""
