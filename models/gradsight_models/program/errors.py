"""What can go wrong when a module is exported."""


class ExportError(ValueError):
    """The module cannot be exported. The message says what, in which line of the module, and what to do instead."""
