"""The architectures that ship with the workers, one short readable module each, its defaults beside it."""
