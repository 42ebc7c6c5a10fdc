"""The engine room: the processes that train jobs on one device.

Read `supervisor.py` first: one long-lived process per device that takes jobs from its own queue and forks, per
job, an attempt (`attempt.py`: lease, events, files, causes of death), which forks the trainer (`training/`: the
loop itself, which knows no store and no queue). No process here outlives the one that started it.
What jobs are and what becomes of them is the store's; models are `gradsight_models`; nothing here serves clients.
"""
