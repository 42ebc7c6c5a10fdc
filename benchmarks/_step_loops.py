"""The loops that are compared. Each is made for a case and then takes so many steps at a call, going on where it was.

All of them train the case's model on its rows, shuffled for every epoch, with AdamW at a constant rate, decay on
matrices only, and gradients clipped by their global norm at 1.
"""

import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from _step_cases import Case
from _turns import Turn, clock
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

WEIGHT_DECAY = 0.01
MAX_NORM = 1.0
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
_LEAD = 20
"""Steps at the beginning of a trainer's `fit` that do not count, so that its setting up does not either."""


def data_loader(case: Case) -> Turn:
    """As the tutorials write it: `TensorDataset`, default collation, `torch.optim.AdamW`, the loss as a number."""
    model = case.model()
    optimizer = _adamw(model, case)
    batches = _endless(_loader(TensorDataset(*case.rows()), case))
    losses: list[float] = []

    def turn(steps: int) -> float:
        began = clock()
        for _ in range(steps):
            inputs, targets = next(batches)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            losses.append(loss.item())
        return clock() - began

    return turn


def hand_tuned(case: Case) -> Turn:
    """As somebody writes it who needs the speed: rows by index, flat parameters, one fused update per group.

    It measures nothing and reports nothing. Clipping divides inside the update's kernel.
    """
    model = case.model()
    inputs, targets = case.rows()
    values, gradients, groups = _flatten(model)
    first, second = torch.zeros_like(values), torch.zeros_like(values)
    count = torch.zeros(())
    calls = [
        ([values[span]], [gradients[span]], [first[span]], [second[span]], decay) for span, decay in groups
    ]
    order = _shuffled(len(targets), case.batch_size)

    def turn(steps: int) -> float:
        began = clock()
        for _ in range(steps):
            rows = next(order)
            gradients.zero_()
            loss = functional.cross_entropy(
                model(inputs.index_select(0, rows)), targets.index_select(0, rows)
            )
            loss.backward()  # type: ignore[no-untyped-call]
            divisor = torch.linalg.vector_norm(gradients).div_(MAX_NORM).clamp_(min=1.0)
            count.add_(1)
            for weights, slopes, means, squares, decay in calls:
                torch._fused_adamw_(
                    weights,
                    slopes,
                    means,
                    squares,
                    [],
                    [count],
                    lr=case.learning_rate,
                    beta1=_BETAS[0],
                    beta2=_BETAS[1],
                    weight_decay=decay,
                    eps=_EPSILON,
                    amsgrad=False,
                    maximize=False,
                    grad_scale=divisor,
                )
        return clock() - began

    return turn


def fused_optimizer(case: Case) -> Turn:
    """The other way to write a fast loop: parameters as they are, `AdamW(fused=True)`, torch's own clipping."""
    model = case.model()
    inputs, targets = case.rows()
    optimizer = _adamw(model, case, fused=True)
    parameters = list(model.parameters())
    order = _shuffled(len(targets), case.batch_size)

    def turn(steps: int) -> float:
        began = clock()
        for _ in range(steps):
            rows = next(order)
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                model(inputs.index_select(0, rows)), targets.index_select(0, rows)
            )
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, MAX_NORM)
            optimizer.step()
        return clock() - began

    return turn


def lightning(case: Case) -> Turn:
    """Lightning's `Trainer` with logger, checkpoints, progress bar and summary off; the module logs nothing."""
    from lightning import Callback, LightningModule, Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = case.model()
    loader = _loader(TensorDataset(*case.rows()), case)

    class Module(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Sequence[Tensor], _index: int) -> Tensor:
            return functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return _adamw(model, case)

    class Clock(Callback):  # type: ignore[misc]
        began = ended = 0.0

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == _LEAD:
                self.began = clock()

        def on_train_end(self, *_: Any) -> None:
            self.ended = clock()

    def turn(steps: int) -> float:
        clock = Clock()
        trainer = Trainer(
            accelerator="cpu",
            max_steps=_LEAD + steps,
            gradient_clip_val=MAX_NORM,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), loader)
        return clock.ended - clock.began

    return turn


def hf_trainer(case: Case) -> Turn:
    """The `Trainer` of Hugging Face transformers with logging, saving, reports and progress bar off."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    module = _WithLoss(case.model())
    rows = _Rows(*case.rows())

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = ended = 0.0

        def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == _LEAD:
                self.began = clock()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = clock()

    def turn(steps: int) -> float:
        clock = Clock()
        with tempfile.TemporaryDirectory(prefix="gradsight-bench-") as directory:
            arguments = TrainingArguments(
                output_dir=directory,
                max_steps=_LEAD + steps,
                per_device_train_batch_size=case.batch_size,
                learning_rate=case.learning_rate,
                weight_decay=WEIGHT_DECAY,
                lr_scheduler_type="constant",
                max_grad_norm=MAX_NORM,
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
            )
            trainer = Trainer(model=module, args=arguments, train_dataset=rows, callbacks=[clock])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return clock.ended - clock.began

    return turn


OTHERS: dict[str, Callable[[Case], Turn]] = {
    "hand-tuned": hand_tuned,
    "fused optimizer": fused_optimizer,
    "DataLoader": data_loader,
    "Lightning": lightning,
    "HF Trainer": hf_trainer,
}
_NEEDS = {"Lightning": ("lightning",), "HF Trainer": ("transformers", "accelerate")}


def missing(name: str) -> str | None:
    """The package that a loop needs and that is not installed."""
    return next((package for package in _NEEDS.get(name, ()) if not importlib.util.find_spec(package)), None)


class _WithLoss(nn.Module):
    """A model as the Trainer wants it: the answer is a dictionary that holds the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        scores = self.model(inputs)
        return {"loss": functional.cross_entropy(scores, labels), "logits": scores}


class _Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self._inputs[index], "labels": self._targets[index]}


def _groups(model: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters that decay, and those that do not: biases and norms."""
    parameters = list(model.parameters())
    return [
        ([parameter for parameter in parameters if parameter.ndim > 1], WEIGHT_DECAY),
        ([parameter for parameter in parameters if parameter.ndim <= 1], 0.0),
    ]


def _adamw(model: nn.Module, case: Case, **options: Any) -> torch.optim.AdamW:
    groups = [{"params": parameters, "weight_decay": decay} for parameters, decay in _groups(model)]
    return torch.optim.AdamW(groups, lr=case.learning_rate, betas=_BETAS, eps=_EPSILON, **options)


def _flatten(model: nn.Module) -> tuple[Tensor, Tensor, list[tuple[slice, float]]]:
    """Values and gradients of all parameters in one tensor each, and where the groups lie, with their decay.

    The parameters become views, each on a border of 64 bytes.
    """
    groups = _groups(model)
    lengths = [[-(-p.numel() // 16) * 16 for p in parameters] for parameters, _ in groups]
    values = torch.zeros(sum(map(sum, lengths)))
    gradients = torch.zeros_like(values)
    spans, end = [], 0
    for (parameters, decay), group in zip(groups, lengths, strict=True):
        spans.append((slice(end, end + sum(group)), decay))
        for parameter, length in zip(parameters, group, strict=True):
            span = slice(end, end + parameter.numel())
            values[span] = parameter.detach().flatten()
            parameter.data = values[span].view(parameter.shape)
            parameter.grad = gradients[span].view(parameter.shape)
            end += length
    return values, gradients, spans


def _shuffled(rows: int, batch_size: int) -> Iterator[Tensor]:
    """Numbers of the rows of each batch, for ever."""
    while True:
        yield from torch.randperm(rows).tensor_split(rows // batch_size)


def _loader(rows: Dataset[Any], case: Case) -> DataLoader[Any]:
    return DataLoader(rows, batch_size=case.batch_size, shuffle=True)


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader
