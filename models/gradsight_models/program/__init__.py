"""Programs: the user's own module as a graph and weights, out of torch and back into it.

    export.py      module -> graph.json and weights.safetensors, on the user's machine
      example.py     example inputs -> named tensors; the result -> scores
      tracing.py     the call of torch.export;  errors.py: its errors in plain words
      lowering.py    torch's graph -> ours;  sizes.py: torch's symbolic sizes -> ours
      answers.py     the module and its program side by side, before anything is sent
    reader.py      graph.json and weights.safetensors -> module, on the worker
      module.py      the module: two procedures over one set of parameters
      weights.py     tensors of the file, compared with the graph
      watching.py    where probes of activations look
      shapes.py      the graph run on shapes alone, before anything is computed
    source.py      all of it as a `ModelSource`

The graph's JSON belongs to `gradsight.graph`. Nothing here runs code that a graph brings.
"""

from gradsight_models.program.errors import ExportError
from gradsight_models.program.export import ExportedProgram, export_program
from gradsight_models.program.module import Program
from gradsight_models.program.reader import build_program
from gradsight_models.program.source import ProgramSource

__all__ = ["ExportError", "ExportedProgram", "Program", "ProgramSource", "build_program", "export_program"]
