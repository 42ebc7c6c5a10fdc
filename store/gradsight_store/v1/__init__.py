"""Generated from protos/gradsight_store/v1 by scripts/gen_protos.py. Never edited."""
