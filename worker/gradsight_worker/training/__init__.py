"""The trainer: reads rows, builds the model, runs the loop, measures it, saves its state, writes the result.

It knows files, torch and a socket; no store, no queue, no network. What it finds out goes over the channel to the
attempt, which alone speaks to the store; what a step measures stays on the device until it can be copied out
without waiting. Processes, leases and credentials live one folder up, architectures in `gradsight_models`,
statistics in `gradsight_insight`. Read `trainer.py` first, then `loop.py`.
"""
