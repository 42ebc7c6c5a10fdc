"""An earlier job's result on this job's test rows."""

import numpy as np
from torch.nn import functional

from gradsight_models import LoadedModel
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.evaluation import Answers


def baseline_answers(baseline: LoadedModel, rows: Rows) -> Answers:
    """What the earlier model makes of each row; a class that it does not know costs it an infinite loss."""
    by_name = dict(zip(rows.input_names, rows.inputs, strict=True))
    scores = baseline.scores([by_name[name].tolist() for name in baseline.input_columns])
    log_probabilities = functional.log_softmax(scores.double(), dim=1).numpy()
    numbers = {name: number for number, name in enumerate(baseline.labels.names)}
    targets = np.array([numbers.get(target, -1) for target in rows.targets])
    losses = -log_probabilities[np.arange(len(targets)), targets]
    losses[targets < 0] = np.inf
    predicted = np.array(baseline.labels.names, dtype=object)[log_probabilities.argmax(axis=1)]
    return Answers(losses=losses.astype(np.float32), predicted=predicted, correct=predicted == rows.targets)
