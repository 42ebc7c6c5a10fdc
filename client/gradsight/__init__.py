"""Client of gradsight: submit training jobs, watch them learn, take the result home.

Light on purpose: importing this package loads neither grpc nor torch nor redis nor numpy; grpc is loaded by the first
client that is made.
"""

from gradsight._version import __version__

__all__ = ["__version__"]
