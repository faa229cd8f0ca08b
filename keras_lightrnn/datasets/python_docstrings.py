"""The TFDS data set `python_docstrings`, which needs no download."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sysconfig
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds

from keras_lightrnn.datasets.docstring_prose import iter_docstrings, iter_sentences

STANDARD_LIBRARY = "the standard library"

_SKIPPED_DIRECTORIES = frozenset(
    {
        "__pycache__",
        "_api",  # TensorFlow's list of names, without text
        "_vendor",
        "dist-packages",
        "idle_test",
        "site-packages",
        "test",
        "tests",
    }
)
# One of so many parts goes to the test split, and one to the validation split.
_NUM_PARTS = 20


class PythonDocstrings(tfds.core.GeneratorBasedBuilder):
    """The prose of the docstrings of the installed scientific Python packages.

    Each example is one sentence, `{"text": ...}`: lower-case words and punctuation, separated
    by spaces, with `N` for numbers, `<code>` for inline code other than names, and `<formula>`
    for mathematics. The text comes from the standard library and from the packages that this
    package depends on, so nothing is downloaded. It depends on their versions, which
    `info.metadata` records.

    The splits `train`, `validation` and `test` contain about 90, 5 and 5 % of the modules,
    selected by a hash of the module's name. No sentence is repeated in the data set, so no two
    splits share one. Sentences are in the order of the sources.

    Importing `keras_lightrnn.datasets` registers the data set.

    Example:

    ```python
    import tensorflow_datasets as tfds
    import keras_lightrnn.datasets

    dataset = tfds.load("python_docstrings", split="train")
    ```
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (tfds asks for a dict)

    # Names to import, in the order of the text. Packages that are not installed are skipped.
    PACKAGES = (
        STANDARD_LIBRARY,
        "numpy",
        "scipy",
        "keras",
        "tensorflow",
        "tensorflow_datasets",
        "numba",
        "llvmlite",
        "absl",
        "array_record",
        "astunparse",
        "attr",
        "docstring_parser",
        "etils",
        "flatbuffers",
        "fsspec",
        "gast",
        "google.protobuf",
        "grpc",
        "h5py",
        "immutabledict",
        "markdown_it",
        "ml_dtypes",
        "namex",
        "opt_einsum",
        "optree",
        "packaging",
        "promise",
        "psutil",
        "pyarrow",
        "pygments",
        "requests",
        "rich",
        "setuptools",
        "simple_parsing",
        "six",
        "tensorflow_metadata",
        "termcolor",
        "toml",
        "tqdm",
        "tree",
        "typing_extensions",
        "urllib3",
        "wrapt",
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Sentences of prose from the docstrings of the Python standard library and of "
                "the installed packages that keras_lightrnn depends on, split by module."
            ),
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            supervised_keys=("text", "text"),
            homepage="https://docs.python.org/3/glossary.html#term-docstring",
            metadata=tfds.core.MetadataDict(versions=_find_versions(self.PACKAGES)),
            disable_shuffling=True,  # otherwise TFDS orders sentences by their hashes
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        seen: set[str] = set()
        with _garbage_collection_off():
            for module, source in _iter_modules(self.PACKAGES):
                sentences = splits[choose_split(module)]
                for sentence in _iter_source(source):
                    if sentence not in seen:
                        seen.add(sentence)
                        sentences.append(sentence)
        return {split: self._generate_examples(texts) for split, texts in splits.items()}

    def _generate_examples(self, texts: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
        for key, text in enumerate(texts):
            yield key, {"text": text}


@contextlib.contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Halve the time of parsing. Syntax trees are many objects, but they have no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def choose_split(module: str) -> str:
    """Return the split of a module, by a hash of its dotted name.

    Example:

    >>> choose_split("json.decoder"), choose_split("decimal")
    ('validation', 'train')
    """
    digest = hashlib.sha256(module.encode()).digest()
    part = int.from_bytes(digest[:8], "big") % _NUM_PARTS
    return {0: "test", 1: "validation"}.get(part, "train")


def _iter_modules(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Iterate over dotted names and sources of all modules, in a fixed order."""
    for package in packages:
        for root, prefix in _find_roots(package):
            for path in _walk(root):
                name = prefix + os.path.relpath(path, os.path.dirname(root))[: -len(".py")]
                with open(path, "rb") as file:
                    data = file.read()
                if b'"""' not in data and b"'''" not in data:
                    continue  # no docstrings, so it need not be parsed
                try:
                    source = data.decode("utf-8")
                except UnicodeDecodeError:
                    continue  # a few very old modules have other encodings
                yield name.replace(os.sep, ".").removesuffix(".__init__"), source


def _find_roots(package: str) -> Iterator[tuple[str, str]]:
    """Iterate over the files and directories of a package, with the prefix of their names."""
    if package == STANDARD_LIBRARY:
        directory = sysconfig.get_path("stdlib")
        for entry in sorted(os.listdir(directory)):
            path = os.path.join(directory, entry)
            is_package = os.path.exists(os.path.join(path, "__init__.py"))
            if entry not in _SKIPPED_DIRECTORIES and (is_package or entry.endswith(".py")):
                yield path, ""
        return
    # Only parents are imported by `find_spec`, never the package itself.
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return
    prefix = package.rpartition(".")[0]
    prefix = f"{prefix}." if prefix else ""
    if spec is None:
        return
    if spec.submodule_search_locations is not None:
        for directory in spec.submodule_search_locations:
            yield directory, prefix
    elif spec.origin is not None and spec.origin.endswith(".py"):
        yield spec.origin, prefix


def _walk(root: str) -> Iterator[str]:
    if os.path.isfile(root):
        yield root
        return
    for directory, directories, files in os.walk(root):
        directories[:] = sorted(set(directories) - _SKIPPED_DIRECTORIES)
        for file in sorted(files):
            if file.endswith(".py"):
                yield os.path.join(directory, file)


def _iter_source(source: str) -> Iterator[str]:
    try:
        for docstring in iter_docstrings(source):
            yield from iter_sentences(docstring)
    except (SyntaxError, ValueError, RecursionError):
        return  # some packages contain templates and samples of broken code


def _find_versions(packages: Iterable[str]) -> dict[str, str]:
    # By the installed files: before Python 3.11, `packages_distributions` knows only
    # distributions that list their packages in a file.
    roots = {package.partition(".")[0] for package in packages}
    versions = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        if any(file.parts[0] in roots for file in distribution.files or ()):
            versions[distribution.metadata["Name"]] = distribution.version
    return versions
