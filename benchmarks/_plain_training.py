"""What a team writes without gradsight: a training function, here up to its first step, that a queue of jobs runs.

python _plain_training.py work redis://… [--preload]    a stock RQ worker
python _plain_training.py train rows.csv                once, as a program; prints when the first step had ended
"""

import csv
import sys
import time
from pathlib import Path
from typing import Any

QUEUE = "plain"
LABEL = "label"
HIDDEN = 128
BATCH = 64


def train_until_first_step(path: str) -> float:
    """Read the rows, build the same network, take one AdamW step; the time when the step had ended."""
    import torch
    from torch import nn

    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != LABEL]
    inputs = torch.tensor([[float(row[name]) for name in names] for row in rows])
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    labels = sorted({row[LABEL] for row in rows})
    targets = torch.tensor([labels.index(row[LABEL]) for row in rows])
    model = nn.Sequential(
        nn.Linear(len(names), HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(HIDDEN, len(labels)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss: Any = nn.functional.cross_entropy(model(inputs[:BATCH]), targets[:BATCH])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return time.time()


def work(url: str, *, preload: bool) -> None:
    """A worker with RQ's defaults: it forks for every job. `preload`: torch and what its first step pulls in."""
    import redis
    from rq import Worker

    if preload:
        import torch._dynamo  # noqa: F401
    Worker([QUEUE], connection=redis.Redis.from_url(url)).work()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(sys.argv[2], preload="--preload" in sys.argv)
    else:
        print(f"first step at {train_until_first_step(sys.argv[2])!r}")
