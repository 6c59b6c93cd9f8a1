"""Verbs that train: tokenizer train, prepare, train, sweep, glue."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from jaxencoder.cli.verb import RecipeVerb, RecordText, Verb, default_is, load_recipe
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.training.memory import keep_freed_memory

_RECIPE = "Recipe (a path, or the name of a packaged one), run folder, or its config.json."
Recipe = Positional[Annotated[str, arg(metavar="RECIPE", help=_RECIPE)]]
GlueTask = Literal["wnli", "rte", "mrpc", "cola", "stsb", "sst2", "qnli", "qqp", "mnli"]


class Train(RecipeVerb):
    """Train a recipe, or continue a run.

    Every setting of the recipe is an option too. After a recipe, --help lists them.

    Example: jaxencoder train bert_small --data.train "corpus/*.jsonl" --run-dir runs/small
    """

    distributed: ClassVar[bool] = True
    recipe: Recipe
    run_dir: Annotated[Path | None, default_is("runs/NAME, or the run that RECIPE names")] = None
    """Folder of the run."""

    def run(self) -> None:
        config = load_recipe(self.recipe, self.settings)
        keep_freed_memory()
        from jaxencoder.training.loop import train

        train(config, self.run_dir or _run_folder(self.recipe) or Path("runs") / config.name)


def _run_folder(target: str) -> Path | None:
    """The folder of a run that is named by itself or by its config.json."""
    path = Path(target)
    folder = path.parent if path.suffix == ".json" else path
    return folder if (folder / "config.json").is_file() else None


class Prepare(RecipeVerb):
    """Make the tokenizer and the rows of a recipe ahead of training.

    Example: jaxencoder prepare bert_small --data.train "corpus/*.jsonl"
    """

    distributed: ClassVar[bool] = True
    recipe: Recipe

    def run(self) -> None:
        config = load_recipe(self.recipe, self.settings)
        from jaxencoder.training.setup import prepare_all

        for split, store in prepare_all(config):
            padding = store.meta["padding_fraction"]
            print(f"{split}: {len(store)} rows of {store.meta['row_length']} tokens, {padding:.1%} padding")


class TrainTokenizer(Verb):
    """Train a tokenizer on text.

    Example: jaxencoder tokenizer train corpus/*.jsonl --output tok --kind wordpiece --vocab-size 16384
    """

    sources: Positional[Annotated[tuple[str, ...], arg(metavar="SOURCE ...", help_behavior_hint="(required)")]]
    """Texts, as in data.train: pydocs, files, folders, globs, or tfds:NAME/CONFIG:SPLIT."""
    output: Path
    """Folder to write."""
    text_field: RecordText = "text"
    tokenizer: OmitArgPrefixes[TokenizerConfig] = field(default_factory=TokenizerConfig)

    def run(self) -> None:
        if not self.sources:
            raise ValueError("name at least one SOURCE of texts")
        if self.tokenizer.path:
            raise ValueError(f"--path {self.tokenizer.path} loads a tokenizer; to train one, leave it out")
        from jaxencoder.text.sources.records import read
        from jaxencoder.text.tokenizers.training import train_tokenizer

        records = (record for source in self.sources for record in read(source, text_field=self.text_field))
        tokenizer = train_tokenizer((record[self.text_field] for record in records), self.tokenizer)
        tokenizer.save(self.output)
        print(f"{tokenizer.vocab_size} tokens in {self.output}")


class _ManyRuns(RecipeVerb):
    run_dir: Path
    """Folder of the runs, results.json and report.md."""
    seeds: Annotated[tuple[int, ...], default_is("one, the recipe's own")] = ()
    """Seeds whose results are averaged."""
    jobs: int = 1
    """Runs at a time, each on its share of the cores; 1 on an accelerator."""


class Sweep(_ManyRuns):
    """Train and evaluate a recipe over a grid of settings and seeds.

    Example: jaxencoder sweep finetune_classification --run-dir runs/sweep --seeds 0 1 2 --vary data.balance=0,1
    """

    recipe: Recipe
    vary: UseAppendAction[tuple[Annotated[str, arg(metavar="NAME=VALUE,VALUE")], ...]] = ()
    """A setting and its values, such as optimizer.learning_rate=1e-4,3e-4."""

    def run(self) -> None:
        config = load_recipe(self.recipe, self.settings)
        keep_freed_memory()
        from jaxencoder.evaluation.sweep import run_sweep

        print(run_sweep(config, self.run_dir, self.seeds, self.vary, self.jobs))


class Glue(_ManyRuns):
    """Fine-tune a model on the tasks of GLUE and evaluate it.

    Settings of finetune_classification are options too, for all tasks, such as --optimizer.learning-rate 3e-4.

    Example: jaxencoder glue glue_folder --init-from runs/small --run-dir runs/glue
    """

    lists_settings: ClassVar[bool] = False
    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Folder with TASK/train.jsonl and TASK/validation.jsonl, or tfds."""
    init_from: str
    """The model, as for train --init-from."""
    tasks: Annotated[tuple[GlueTask, ...], default_is("all")] = ()
    """Tasks."""
    limit: int = 0
    """Train on the first N examples of each task; 0: on all."""
    from_mnli: bool = False
    """Initialize rte, mrpc and stsb from the run on mnli."""

    def run(self) -> None:
        keep_freed_memory()
        from jaxencoder.evaluation.glue import GlueOptions, run_glue

        options = GlueOptions(self.seeds or (0,), self.tasks, self.settings, self.limit, self.from_mnli)
        print(run_glue(self.data, self.init_from, self.run_dir, options, self.jobs))
