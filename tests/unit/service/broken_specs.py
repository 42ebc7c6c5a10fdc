"""Values out of their limits, by field: what to add to a sound spec, the path, what was got, what is allowed."""

DIGEST = "sha256:" + "0a" * 32

BROKEN: dict[str, list[tuple[str, str, str, str]]] = {
    "JobSpec.name": [
        ('name: "a b"', "name", '"a b"', "1 to 64 characters"),
        (f'name: "{"x" * 65}"', "name", "65 characters", "1 to 64 characters"),
        ('name: "a\u202eb"', "name", '"a\\u202eb"', "1 to 64 characters"),
    ],
    "JobSpec.labels": [
        ('labels { key: "Team" value: "x" }', 'labels["Team"]', '"Team"', "keys of 1 to 63"),
        ('labels { key: "team" value: "x y" }', 'labels["team"]', '"x y"', "values of 0 to 63"),
        ('labels { value: "x" }', 'labels[""]', '""', "keys of 1 to 63"),
        (" ".join(f'labels {{ key: "k{n}" }}' for n in range(33)), "labels", "33", "at most 32"),
    ],
    "JobSpec.queue": [('queue: "Big"', "queue", '"Big"', "1 to 64 characters of `a-z 0-9 -`")],
    "JobSpec.priority": [
        ("priority: 101", "priority", "101", "-100 to 100"),
        ("priority: -101", "priority", "-101", "-100 to 100"),
    ],
    "JobSpec.seed": [("seed: -1", "seed", "-1", "0 to 2^63 - 1")],
    "Mlp.hidden_sizes": [
        (
            "model { builtin { mlp { hidden_sizes: [8, 0] } } }",
            "model.builtin.mlp.hidden_sizes[1]",
            "0",
            "1 to 16384",
        ),
        (
            f"model {{ builtin {{ mlp {{ hidden_sizes: {[8] * 65} }} }} }}",
            "model.builtin.mlp.hidden_sizes",
            "65",
            "at most 64 layers",
        ),
    ],
    "Mlp.dropout": [
        ("model { builtin { mlp { dropout: 1 } } }", "model.builtin.mlp.dropout", "1", "0 to below 1"),
        (
            "model { builtin { mlp { dropout: nan } } }",
            "model.builtin.mlp.dropout",
            "nan",
            "0 to below 1, finite",
        ),
    ],
    "TextClassifier.embedding_size": [
        (
            "model { builtin { text_classifier { embedding_size: 0 } } }",
            "model.builtin.text_classifier.embedding_size",
            "0",
            "1 to 4096",
        )
    ],
    "TextClassifier.hidden_size": [
        (
            "model { builtin { text_classifier { hidden_size: -1 } } }",
            "model.builtin.text_classifier.hidden_size",
            "-1",
            "0 to 16384",
        )
    ],
    "TextClassifier.dropout": [
        (
            "model { builtin { text_classifier { dropout: -0.1 } } }",
            "model.builtin.text_classifier.dropout",
            "-0.1",
            "0 to below 1",
        )
    ],
    "TextClassifier.max_vocabulary": [
        (
            "model { builtin { text_classifier { max_vocabulary: 15 } } }",
            "model.builtin.text_classifier.max_vocabulary",
            "15",
            "16 to 1000000",
        )
    ],
    "TextTransformer.layers": [
        (
            "model { builtin { text_transformer { layers: 97 } } }",
            "model.builtin.text_transformer.layers",
            "97",
            "1 to 96",
        )
    ],
    "TextTransformer.width": [
        (
            "model { builtin { text_transformer { width: 7 } } }",
            "model.builtin.text_transformer.width",
            "7",
            "8 to 16384",
        )
    ],
    "TextTransformer.heads": [
        (
            "model { builtin { text_transformer { heads: 257 } } }",
            "model.builtin.text_transformer.heads",
            "257",
            "1 to 256",
        )
    ],
    "TextTransformer.dropout": [
        (
            "model { builtin { text_transformer { dropout: 1 } } }",
            "model.builtin.text_transformer.dropout",
            "1",
            "0 to below 1",
        )
    ],
    "TextTransformer.context_length": [
        (
            "model { builtin { text_transformer { context_length: 8193 } } }",
            "model.builtin.text_transformer.context_length",
            "8193",
            "8 to 8192",
        )
    ],
    "TextTransformer.max_vocabulary": [
        (
            "model { builtin { text_transformer { max_vocabulary: 255 } } }",
            "model.builtin.text_transformer.max_vocabulary",
            "255",
            "256 to 1000000",
        )
    ],
    "Cnn.channels": [
        (
            "model { builtin { cnn { channels: [8, 4097] } } }",
            "model.builtin.cnn.channels[1]",
            "4097",
            "1 to 4096",
        ),
        (
            f"model {{ builtin {{ cnn {{ channels: {[8] * 9} }} }} }}",
            "model.builtin.cnn.channels",
            "9",
            "at most 8 stages",
        ),
    ],
    "Cnn.dropout": [
        (
            "model { builtin { cnn { dropout: nan } } }",
            "model.builtin.cnn.dropout",
            "nan",
            "0 to below 1, finite",
        )
    ],
    "Cnn.image_size": [
        (
            "model { builtin { cnn { image_size: 4 } } }",
            "model.builtin.cnn.image_size",
            "4",
            "8 to 1024 pixels",
        )
    ],
    "Gpt.layers": [("model { builtin { gpt { layers: 0 } } }", "model.builtin.gpt.layers", "0", "1 to 96")],
    "Gpt.width": [
        ("model { builtin { gpt { width: 16385 } } }", "model.builtin.gpt.width", "16385", "8 to 16384")
    ],
    "Gpt.heads": [("model { builtin { gpt { heads: 0 } } }", "model.builtin.gpt.heads", "0", "1 to 256")],
    "Gpt.context_length": [
        (
            "model { builtin { gpt { context_length: 7 } } }",
            "model.builtin.gpt.context_length",
            "7",
            "8 to 8192",
        )
    ],
    "Gpt.dropout": [
        ("model { builtin { gpt { dropout: -0.5 } } }", "model.builtin.gpt.dropout", "-0.5", "0 to below 1")
    ],
    "Gpt.max_vocabulary": [
        (
            "model { builtin { gpt { max_vocabulary: 1000001 } } }",
            "model.builtin.gpt.max_vocabulary",
            "1000001",
            "256 to 1000000",
        )
    ],
    "ProgramModel.graph": [
        (
            f'model {{ program {{ graph: "md5:1" weights: "{DIGEST}" }} }}',
            "model.program.graph",
            '"md5:1"',
            "`sha256:`",
        )
    ],
    "ProgramModel.weights": [
        (
            f'model {{ program {{ graph: "{DIGEST}" weights: "w" }} }}',
            "model.program.weights",
            '"w"',
            "`sha256:`",
        )
    ],
    "RecipeModel.name": [
        (
            'model { recipe { name: "os; rm" } }',
            "model.recipe.name",
            '"os; rm"',
            "1 to 64 characters of `a-z 0-9 . _ -`",
        )
    ],
    "RecipeModel.options": [
        (
            'model { recipe { name: "lora" options { key: "Rank" value: "8" } } }',
            'model.recipe.options["Rank"]',
            '"Rank"',
            "names of 1 to 64",
        ),
        (
            f'model {{ recipe {{ name: "lora" options {{ key: "rank" value: "{"8" * 1025}" }} }} }}',
            'model.recipe.options["rank"]',
            "1025 characters",
            "values of 0 to 1024",
        ),
    ],
    "StartSpec.extended_job_id": [
        (
            'start { extended_job_id: "A" }',
            "start.extended_job_id",
            '"A"',
            "1 to 64 characters of `a-z 0-9 -`",
        )
    ],
    "StartSpec.weights_job_id": [
        (
            'start { weights_job_id: "a/b" }',
            "start.weights_job_id",
            '"a/b"',
            "1 to 64 characters of `a-z 0-9 -`",
        )
    ],
    "CrossEntropy.class_weights": [
        (
            f'objective {{ cross_entropy {{ class_weights {{ key: "rare" value: {weight} }} }} }}',
            'objective.cross_entropy.class_weights["rare"]',
            weight,
            "above 0 to 1000",
        )
        for weight in ("0", "-1", "1001", "nan", "inf")
    ],
    "BinaryCrossEntropy.separator": [
        (
            f'objective {{ binary_cross_entropy {{ separator: "{separator}" }} }}',
            "objective.binary_cross_entropy.separator",
            got,
            "1 to 8 characters",
        )
        for separator, got in (("", '""'), ("|" * 9, "9 characters"))
    ],
    "Huber.delta": [("objective { huber { delta: 0 } }", "objective.huber.delta", "0", "above 0 to 1000")],
    "OptimizerSpec.max_gradient_value": [
        ("optimizer { max_gradient_value: -1 }", "optimizer.max_gradient_value", "-1", "above 0")
    ],
    "OptimizerSpec.accumulation_steps": [
        ("optimizer { accumulation_steps: 0 }", "optimizer.accumulation_steps", "0", "1 to 1024"),
        ("optimizer { accumulation_steps: 1025 }", "optimizer.accumulation_steps", "1025", "1 to 1024"),
    ],
    "OptimizerSpec.average_decay": [
        ("optimizer { average_decay: 1 }", "optimizer.average_decay", "1", "0 to below 1")
    ],
    "Adam.beta1": [("optimizer { adam { beta1: 1 } }", "optimizer.adam.beta1", "1", "0 to below 1")],
    "Adam.beta2": [
        ("optimizer { adam { beta2: nan } }", "optimizer.adam.beta2", "nan", "0 to below 1, finite")
    ],
    "Adam.epsilon": [("optimizer { adam { epsilon: 2 } }", "optimizer.adam.epsilon", "2", "above 0 to 1")],
    "Adafactor.beta2_decay": [
        ("optimizer { adafactor { beta2_decay: 0.8 } }", "optimizer.adafactor.beta2_decay", "0.8", "-1 to 0")
    ],
    "Adafactor.clipping_threshold": [
        (
            "optimizer { adafactor { clipping_threshold: 0 } }",
            "optimizer.adafactor.clipping_threshold",
            "0",
            "above 0 to 1000",
        )
    ],
    "Muon.momentum": [("optimizer { muon { momentum: 1 } }", "optimizer.muon.momentum", "1", "0 to below 1")],
    "Muon.adamw_learning_rate": [
        (
            "optimizer { muon { adamw_learning_rate: 0 } }",
            "optimizer.muon.adamw_learning_rate",
            "0",
            "above 0 to 1000",
        )
    ],
    "Muon.iterations": [
        ("optimizer { muon { iterations: 21 } }", "optimizer.muon.iterations", "21", "1 to 20")
    ],
    "LinearSchedule.final_fraction": [
        ("schedule { linear { final_fraction: -1 } }", "schedule.linear.final_fraction", "-1", "0 to 1")
    ],
    "OneCycleSchedule.rise_fraction": [
        (
            "schedule { one_cycle { rise_fraction: 1 } }",
            "schedule.one_cycle.rise_fraction",
            "1",
            "above 0 to below 1",
        )
    ],
    "OneCycleSchedule.initial_fraction": [
        (
            "schedule { one_cycle { initial_fraction: 2 } }",
            "schedule.one_cycle.initial_fraction",
            "2",
            "0 to 1",
        )
    ],
    "OneCycleSchedule.final_fraction": [
        (
            "schedule { one_cycle { final_fraction: inf } }",
            "schedule.one_cycle.final_fraction",
            "inf",
            "0 to 1, finite",
        )
    ],
    "StepSchedule.factor": [
        ("schedule { step { factor: 1 } }", "schedule.step.factor", "1", "above 0 to below 1")
    ],
    "StepSchedule.milestones": [
        (
            "schedule { step { milestones: [0.5, 1] } }",
            "schedule.step.milestones[1]",
            "1",
            "each above 0 to below 1",
        ),
        (
            f"schedule {{ step {{ milestones: {[n / 66 for n in range(1, 66)]} }} }}",
            "schedule.step.milestones",
            "65",
            "at most 64",
        ),
    ],
    "PlateauSchedule.factor": [
        ("schedule { plateau { factor: 0 } }", "schedule.plateau.factor", "0", "above 0 to below 1")
    ],
    "PlateauSchedule.patience": [
        ("schedule { plateau { patience: 1001 } }", "schedule.plateau.patience", "1001", "1 to 1000")
    ],
    "PlateauSchedule.final_fraction": [
        ("schedule { plateau { final_fraction: 1.5 } }", "schedule.plateau.final_fraction", "1.5", "0 to 1")
    ],
    "EvaluationSpec.patience": [
        ("evaluation { patience: 0 }", "evaluation.patience", "0", "1 to 10000"),
        ("evaluation { patience: 10001 }", "evaluation.patience", "10001", "1 to 10000"),
    ],
    "EvaluationSpec.min_improvement": [
        ("evaluation { min_improvement: nan }", "evaluation.min_improvement", "nan", "0 to 1000, finite")
    ],
    "DataSpec.input_columns": [
        ('data { input_columns: ["a", ""] }', "data.input_columns[1]", '""', "1 to 256 characters"),
        (
            'data { input_columns: ["a", "b\\n"] }',
            "data.input_columns[1]",
            '"b\\n"',
            "without control characters",
        ),
        (
            f"data {{ input_columns: {list(map(str, range(4097)))} }}",
            "data.input_columns",
            "4097",
            "1 to 4096 names",
        ),
    ],
    "DataSpec.target_column": [
        (f'data {{ target_column: "{"x" * 257}" }}', "data.target_column", "257 characters", "1 to 256")
    ],
    "DataSpec.id_column": [
        ('data { id_column: "\\000" }', "data.id_column", '"\\u0000"', "without control characters")
    ],
    "DataSpec.category_column": [
        (
            'data { category_column: "\u202e" }',
            "data.category_column",
            '"\\u202e"',
            "without control characters",
        )
    ],
    "DataSpec.batch_size": [
        ("data { batch_size: 0 }", "data.batch_size", "0", "1 to 65536"),
        ("data { batch_size: 65537 }", "data.batch_size", "65537", "1 to 65536"),
    ],
    "DataSource.artifact": [
        (
            'data { train { artifact: "md5:1" } }',
            "data.train.artifact",
            '"md5:1"',
            "`sha256:` and 64 hex digits",
        ),
        (
            f'data {{ test {{ artifact: "{DIGEST.upper()}" }} }}',
            "data.test.artifact",
            '"SHA256:0A',
            "`sha256:`",
        ),
    ],
    "SplitSpec.validation_fraction": [
        (
            "data { split { validation_fraction: 0 } }",
            "data.split.validation_fraction",
            "0",
            "above 0 to 0.5",
        ),
        (
            "data { split { validation_fraction: 0.51 } }",
            "data.split.validation_fraction",
            "0.51",
            "above 0 to 0.5",
        ),
    ],
    "SplitSpec.test_fraction": [
        ("data { split { test_fraction: 0.6 } }", "data.split.test_fraction", "0.6", "above 0 to 0.5")
    ],
    "SplitSpec.seed": [("data { split { seed: -5 } }", "data.split.seed", "-5", "0 to 2^63 - 1")],
    "CrossEntropy.label_smoothing": [
        (
            "objective { cross_entropy { label_smoothing: 1 } }",
            "objective.cross_entropy.label_smoothing",
            "1",
            "0 to below 1",
        )
    ],
    "OptimizerSpec.learning_rate": [
        (f"optimizer {{ learning_rate: {rate} }}", "optimizer.learning_rate", got, "above 0 to 1000")
        for rate, got in (("0", "0"), ("-1", "-1"), ("nan", "nan"), ("inf", "inf"), ("1e30", "1e+30"))
    ],
    "OptimizerSpec.weight_decay": [
        ("optimizer { weight_decay: -0.01 }", "optimizer.weight_decay", "-0.01", "0 to 10"),
        ("optimizer { weight_decay: 11 }", "optimizer.weight_decay", "11", "0 to 10"),
    ],
    "OptimizerSpec.max_gradient_norm": [
        ("optimizer { max_gradient_norm: 0 }", "optimizer.max_gradient_norm", "0", "above 0"),
        ("optimizer { max_gradient_norm: inf }", "optimizer.max_gradient_norm", "inf", "above 0, finite"),
    ],
    "AdamW.beta1": [("optimizer { adamw { beta1: 1 } }", "optimizer.adamw.beta1", "1", "0 to below 1")],
    "AdamW.beta2": [("optimizer { adamw { beta2: -0.1 } }", "optimizer.adamw.beta2", "-0.1", "0 to below 1")],
    "AdamW.epsilon": [("optimizer { adamw { epsilon: 0 } }", "optimizer.adamw.epsilon", "0", "above 0 to 1")],
    "Sgd.momentum": [
        ("optimizer { sgd { momentum: 1.5 } }", "optimizer.sgd.momentum", "1.5", "0 to below 1")
    ],
    "ScheduleSpec.warmup_fraction": [
        ("schedule { warmup_fraction: 0.95 }", "schedule.warmup_fraction", "0.95", "0 to 0.9")
    ],
    "CosineSchedule.final_fraction": [
        ("schedule { cosine { final_fraction: 1.1 } }", "schedule.cosine.final_fraction", "1.1", "0 to 1")
    ],
    "BudgetSpec.steps": [
        ("budget { steps: 0 }", "budget.steps", "0", "1 to 100000000"),
        ("budget { steps: -1 }", "budget.steps", "-1", "1 to 100000000"),
    ],
    "BudgetSpec.epochs": [("budget { epochs: 100001 }", "budget.epochs", "100001", "1 to 100000")],
    "BudgetSpec.timeout": [
        ("budget { timeout { nanos: 999000000 } }", "budget.timeout", "0.999 s", "1 s to 30 days"),
        ("budget { timeout { seconds: 2678400 } }", "budget.timeout", "2.6784e+06 s", "1 s to 30 days"),
        ("budget { timeout { seconds: 9 nanos: -1 } }", "budget.timeout", "9 s", "1 s to 30 days"),
    ],
    "EvaluationSpec.interval_steps": [
        ("evaluation { interval_steps: 0 }", "evaluation.interval_steps", "0", "1 to 100000000")
    ],
    "EvaluationSpec.baseline_job_id": [
        (
            'evaluation { baseline_job_id: "../etc" }',
            "evaluation.baseline_job_id",
            '"../etc"',
            "1 to 64 characters",
        )
    ],
    "EvaluationSpec.category_impacts": [
        (
            f'data {{ category_column: "c" }} evaluation {{ category_impacts {{ key: "returns" value: {impact} }} }}',
            'evaluation.category_impacts["returns"]',
            got,
            "0 to 1000",
        )
        for impact, got in (("1001", "1001"), ("-1", "-1"), ("nan", "nan"))
    ],
    "MonitoringSpec.probe_interval_steps": [
        ("monitoring { probe_interval_steps: 0 }", "monitoring.probe_interval_steps", "0", "1 to 1000000")
    ],
    "CheckpointSpec.interval": [
        ("checkpoint { interval { nanos: 49000000 } }", "checkpoint.interval", "0.049 s", "0.05 s to 1 day")
    ],
    "CheckpointSpec.interval_steps": [
        ("checkpoint { interval_steps: -3 }", "checkpoint.interval_steps", "-3", "1 to 100000000")
    ],
    "CheckpointSpec.keep": [("checkpoint { keep: 101 }", "checkpoint.keep", "101", "1 to 100")],
    "ResourceSpec.device_count": [
        ("resources { device_count: 0 }", "resources.device_count", "0", "1 to 4096"),
        ("resources { device_count: 4097 }", "resources.device_count", "4097", "1 to 4096"),
    ],
    "ResourceSpec.threads": [("resources { threads: 1025 }", "resources.threads", "1025", "1 to 1024")],
}
