"""Version of gradsight, in one place: the build, the service and the result files read it here."""

__version__ = "0.1.0"
