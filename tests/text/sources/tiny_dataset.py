"""A data set of six sentences for TFDS, whose builders must live in a module that can be imported."""

import tensorflow_datasets as tfds


class TinySentences(tfds.core.GeneratorBasedBuilder):
    """Six sentences with a label."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="plain", description="Plain text."),)

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=["bad", "good"])
        features = tfds.features.FeaturesDict(
            {"text": tfds.features.Text(), "label": label, "note": tfds.features.Text()}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

    def _generate_examples(self, count: int):
        for i in range(count):
            yield i, {"text": f"Größe {i} 你好", "label": i % 2, "note": f"note {i}"}


class BrokenSentences(TinySentences):
    """A data set whose preparation fails, as a download without a network does."""

    def _split_generators(self, dl_manager):
        raise ConnectionError("the host could not be reached\nsecond line")


class ArchivedSentences(TinySentences):
    """The sentences of a local archive, which TFDS opens as it does that of imdb_reviews."""

    archive = ""

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(dl_manager.iter_archive(self.archive))}

    def _generate_examples(self, archive):
        for path, stream in archive:
            yield path, {"text": stream.read(), "label": 0, "note": path}


class TensorFlowSentences(TinySentences):
    """A data set that cannot be prepared without TensorFlow."""

    def _split_generators(self, dl_manager):
        from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as tf

        return {"train": tf.train.Example}
