"""Writes the golden fixtures, where torch and transformers are installed: python -m tests.families.make_golden

Run it when `peers.MODELS` has changed or `test_parity.py` says that transformers computes something else; a file that
still says the same is left as it is.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.families import FAMILIES
from jaxencoder.files import read_json
from tests.families.fixtures import Case, Shapes, entry, sample, weights, write
from tests.families.peers import CASES, MODELS, accepted, padded_batch, saved, theirs, torch_model

# RoFormer's table of sines and ESM's frequencies, which are no parameters, and ESM's head of contacts.
BUFFERS = re.compile(r"(embed_positions\.weight|inv_freq|contact_head\.regression\.(weight|bias))$")


def rebuilt(family: str, number: int, kind: str, folder: Path) -> tuple[Any, Shapes]:
    """A model of transformers with the fixtures' weights, left in a folder as transformers saves it, and its shapes."""
    model = torch_model(family, MODELS[family][number], kind)
    tensors = open_weights(saved(model, folder))
    shapes = {name: tensors[name].shape for name in sorted(tensors) if not BUFFERS.search(name)}
    save_weights(dict(tensors) | weights(shapes, prefix(family)), folder)
    return reloaded(model, folder), shapes


def reloaded(model: Any, folder: Path) -> Any:
    """A model of the same class from a folder, whose weights must be all that it wants, and no others."""
    again, report = type(model).from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    missing = [name for name in report.pop("missing_keys") if not BUFFERS.search(name)]
    assert not missing and not any(report.values()), (missing, report)
    return again.eval()


def prefix(family: str) -> str:
    return next(known.prefix for known in FAMILIES if known.model_type == family)


def main() -> None:
    import torch
    import transformers

    for family, models in MODELS.items():
        entries = []
        for number, settings in enumerate(models):
            cases = {}
            for kind in [kind for name, i, kind in CASES if (name, i) == (family, number)]:
                with tempfile.TemporaryDirectory() as folder:
                    model, shapes = rebuilt(family, number, kind, Path(folder))
                    config = read_json(Path(folder) / "config.json", dict)
                batch = accepted(model, padded_batch(settings), kind)
                outputs = theirs(model, batch, kind)
                outputs = {name: sample(x, batch["attention_mask"]) for name, x in outputs.items()}
                cases[kind] = Case(prefix(family), config, shapes, batch, outputs)
            entries.append(entry(settings, cases))
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        print(family, "written" if write(family, versions | {"models": entries}) else "as it was")


if __name__ == "__main__":
    main()
