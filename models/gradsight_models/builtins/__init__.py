"""The architectures that ship with the workers, one module each, options and their reasons beside it.

Each file holds a frozen configuration and an `nn.Module` whose `forward(*inputs)` takes what the architecture's
preprocessing encodes and gives class scores. How rows become inputs is next door; which name stands for which
module is in `gradsight_models.architectures`. Read `mlp.py` first: it is the shortest.
"""
