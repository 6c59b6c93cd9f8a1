"""Splits of TensorFlow Datasets (tensorflow.org/datasets), prepared and read without TensorFlow."""

import contextlib
import functools
import glob
import importlib.util
import os
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxencoder.text.messages import closest, first_line, listed
from jaxencoder.text.sources.class_names import ClassNames, is_named
from jaxencoder.text.sources.formats import Records

_SOURCE = re.compile(r"tfds:(?P<name>[^:]+(?::\d[\w.*]*)?):(?P<split>.+)")


def records(source: str) -> Records:
    """The records of a split in order."""
    builder, split = _builder(source)
    examples = builder.as_data_source(split)
    return ((f"{source}[{i}]", dict(examples[i])) for i in range(len(examples)))


def class_names(source: str) -> ClassNames:
    """The names of the classes of each field that holds classes or lists of them."""
    features = dict(_builder(source)[0].info.features.items())
    named = {name: getattr(getattr(feature, "feature", feature), "names", None) for name, feature in features.items()}
    return {name: tuple(names) for name, names in named.items() if names and is_named(names)}


def version(source: str) -> list:
    """The version of the dataset and the files of the split, which is prepared first if necessary."""
    builder, split = _builder(source)
    info = builder.info.splits[split]
    return [builder.info.full_name, split, info.num_examples, [str(item) for item in info.file_instructions]]


def _builder(source: str) -> tuple[Any, str]:
    """(the builder of a dataset that is prepared on disk, the name of the split)."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise ValueError(f"{source}: write tfds:NAME/CONFIG:SPLIT, such as tfds:imdb_reviews/plain_text:train")
    try:
        import tensorflow_datasets as tfds  # late, for it is slow to import
    except ImportError as error:
        raise ValueError(f"{source} needs tensorflow_datasets ({error}); pip install tensorflow_datasets") from error
    name, split = match["name"], match["split"]
    try:
        # TFRecord, the default, can only be read by TensorFlow.
        builder = tfds.builder(name, file_format="array_record")
        with _gfile_without_tensorflow():
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        near = closest(name.split("/")[0], tfds.list_builders(with_community_datasets=False))
        raise FileNotFoundError(f"{source}: TFDS has no dataset {name!r}{near}") from error
    except Exception as error:  # builders download files and run their authors' code: anything can be raised
        raise ValueError(f"{source} could not be prepared by TFDS: {first_line(error)}") from error
    splits = builder.info.splits
    try:
        splits[split]
    except Exception as error:
        raise ValueError(f"{source}: no split {split!r} among {listed(splits)}{closest(split, splits)}") from error
    return builder, split


@contextlib.contextmanager
def _gfile_without_tensorflow() -> Iterator[None]:
    """Replace tf.io.gfile, with which TFDS and many builders open archives, by Python's functions.

    Preparing imdb_reviews needs nothing else of TensorFlow. The replacement goes where TFDS keeps the module that it
    imports lazily, not into sys.modules: TFDS would take a module there for a complete TensorFlow.
    """
    from tensorflow_datasets.core.utils import lazy_imports_utils

    if importlib.util.find_spec("tensorflow"):
        yield
        return

    def missing(name: str):
        raise AttributeError(f"preparing this data set needs tf.{name}: install tensorflow once, to prepare it")

    tensorflow = types.ModuleType("tensorflow")
    gfile = types.SimpleNamespace(
        GFile=lambda path, mode="r": Path(path).open(mode, encoding=None if "b" in mode else "utf-8"),  # noqa: SIM115 - TFDS closes it
        exists=os.path.exists,
        isdir=os.path.isdir,
        listdir=os.listdir,
        glob=glob.glob,
        makedirs=functools.partial(os.makedirs, exist_ok=True),
    )
    compat, io = types.SimpleNamespace(as_text=os.fsdecode), types.SimpleNamespace(gfile=gfile)
    vars(tensorflow).update(__getattr__=missing, compat=compat, io=io)
    lazy_module: dict[str, Any] = lazy_imports_utils.tensorflow.__dict__
    lazy_module["_module"] = tensorflow
    try:
        yield
    finally:
        del lazy_module["_module"]
