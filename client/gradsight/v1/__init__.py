"""Generated from protos/gradsight/v1 by scripts/gen_protos.py. Never edited."""
