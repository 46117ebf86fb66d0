"""A prior: model, parameters and what is known about them; saving and loading."""

import dataclasses
import hashlib
import json
import os
import tempfile
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.typing import ArrayLike
from jaxtyping import Array

from hvae_jax.files import remove_strays, temporary_prefix, write_atomically
from hvae_jax.images.formats import reason
from hvae_jax.models import FAMILIES
from hvae_jax.models.contract import HVAE, HierarchyConfig
from hvae_jax.prior_file import FORMAT, check_architecture, check_description, read_description

BUNDLED = "natural-medium"
"""The prior that ships with the package."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What `prior.json` says besides format and architecture; hashable, so that it may be static under jit.

    Attributes:
        text: a JSON object: name, provenance, data_licence, training, settings and whatever else the maker wrote.
    """

    text: str = "{}"

    @cached_property
    def values(self) -> dict[str, Any]:
        """The object."""
        return json.loads(self.text)

    @classmethod
    def of(cls, **values: Any) -> "Metadata":
        """From plain values."""
        return cls(json.dumps(values, sort_keys=True))


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["model", "metadata"])
@dataclasses.dataclass(frozen=True)
class Prior:
    """A hierarchical VAE as an image prior; a pytree whose leaves are the parameters.

    Attributes:
        params: the parameters.
        model: the Flax module.
        metadata: what `prior.json` says.
    """

    params: dict[str, Any]
    model: HVAE
    metadata: Metadata = Metadata()

    @property
    def config(self) -> HierarchyConfig:
        """The architecture."""
        return self.model.config

    @property
    def levels(self) -> int:
        """Number of latent groups L."""
        return self.config.levels

    @property
    def multiple(self) -> int:
        """The sides of images are multiples of this."""
        return self.config.multiple

    @property
    def image_size(self) -> int | None:
        """The only side of images that the prior takes, or None if it takes any multiple of `multiple`."""
        return self.config.image_size

    @property
    def info(self) -> dict[str, Any]:
        """What `prior.json` says besides format and architecture: family, sha256, parameters, dtype, settings, ..."""
        return self.metadata.values

    @property
    def network(self) -> "Prior":
        """The prior without its metadata, as compiled programs get it: priors of one architecture share them."""
        return dataclasses.replace(self, metadata=Metadata())

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters as they are in memory, to tell whether a result is of the same ones."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False, dtype: str = "float32") -> None:
        """Write an Orbax checkpoint and a readable `prior.json`, all or nothing.

        Args:
            directory: where to; its parents are created.
            overwrite: replace a prior that is there.
            dtype: of the numbers in the checkpoint: "float32", or "float16" or "bfloat16", which take half the
                space and keep 11 and 8 binary digits. They are float32 again when loaded.

        Raises:
            FileExistsError: the directory exists and `overwrite` is false, or it is not a prior.
            ValueError: the model is of no registered family, the type is none of those, a parameter is too large for
                it, or the metadata (its tables of settings, say) are none that a prior may have.
        """
        check_writable(directory, overwrite)
        if dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"expected the dtype 'float32', 'float16' or 'bfloat16', got {dtype!r}")
        directory = Path(directory).resolve()
        families = [name for name, family in FAMILIES.items() if isinstance(self.model, family.model)]
        if not families:
            raise ValueError(f"expected a model of the families {sorted(FAMILIES)}, got {type(self.model).__name__}")
        # JAX's arrays, as Orbax would copy NumPy's; but beside other processes it takes no others than those.
        array = jnp.asarray if jax.process_count() == 1 else np.asarray
        params = jax.tree.map(lambda leaf: array(leaf, jnp.dtype(dtype)), self.params)
        if wrong := [a for a, b in zip(*map(jax.tree.leaves, (params, self.params)), strict=True) if _overflows(a, b)]:
            raise ValueError(f"expected parameters within the range of {dtype}, got {len(wrong)} arrays that are not")
        description = {
            **self.info,
            "format": FORMAT,
            "family": families[0],
            "config": self.config.to_dict(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "dtype": dtype,
        }
        check_description({**description, "sha256": ""})  # what it would refuse to load
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and then renamed, so that being killed leaves nothing that loads.
        remove_strays(directory.parent)
        with tempfile.TemporaryDirectory(prefix=temporary_prefix(), dir=directory.parent) as scratch:
            new = Path(scratch) / "new"
            # Not compressed: noise-like numbers shrink by 8 % only, for half the memory and time.
            alone = _alone()
            handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
            with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
                checkpointer.save(new / "params", params)
            description["sha256"] = _digest(new / "params")
            (new / "prior.json").write_text(json.dumps(description, indent=2) + "\n")
            os.chmod(new, 0o755)
            old = Path(scratch) / "old"
            if directory.exists():
                os.replace(directory, old)
            try:
                os.replace(new, directory)
            except OSError:
                if old.exists():
                    os.replace(old, directory)
                raise


def _overflows(narrow: Array, wide: ArrayLike) -> bool:
    return bool(jnp.any(jnp.isinf(narrow) & jnp.isfinite(wide)))


def check_writable(directory: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse a directory that `Prior.save` would not write, before long work is done for it.

    Args:
        directory: where a prior is to be saved.
        overwrite: replace a prior that is there.

    Raises:
        FileExistsError: it exists and `overwrite` is false, or it is not a prior.
    """
    directory = Path(directory)
    if directory.exists() and not (overwrite and (directory / "prior.json").is_file()):
        raise FileExistsError(f"{directory} exists; give another directory or ask to overwrite a prior")


class PriorError(ValueError):
    """A directory cannot be loaded as a prior; the message says which and why."""


def load_prior(name: str | os.PathLike[str] = BUNDLED) -> Prior:
    """Load a prior.

    Args:
        name: the name of a bundled prior ("natural-medium", the default), or a directory that `Prior.save` or the
            converter wrote.

    Returns:
        The prior, its parameters on the default device.

    Raises:
        PriorError: there is no such prior, or it is damaged, foreign, or of a newer format.
    """
    directory = find_prior(name)
    description = _read(directory)
    # All of it before reading parameters: what Orbax reads of wrong files may end long after the error.
    if _digest(directory / "params") != description["sha256"]:
        raise PriorError(f"the parameters in {directory} are damaged: their checksum is not that of prior.json")
    try:
        family = FAMILIES[description["family"]]
        config = family.config.from_dict(description["config"])
        check_architecture(config)
        model = family.model(config)
        template = jax.eval_shape(model.initialize, jax.random.key(0))
    except Exception as error:  # Flax and JAX raise many kinds for sizes that do not go together
        raise PriorError(f"{directory}/prior.json describes no model that is known here: {reason(error)}") from error
    description = {name: value for name, value in description.items() if name not in ("format", "config")}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=device), template)
    expected = _shapes(template)
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            saved = _shapes(checkpointer.metadata(directory / "params").item_metadata.tree)
            params = checkpointer.restore(directory / "params", wanted) if saved == expected else None
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise PriorError(f"the parameters in {directory} cannot be read: {first_line}") from error
    if params is None:
        wrong = {name for name, _ in saved.items() ^ expected.items()}
        raise PriorError(
            f"the parameters in {directory} are of another model: {len(wrong)} do not fit, first {min(wrong)}: "
            f"expected {expected.get(min(wrong), 'none')}, got {saved.get(min(wrong), 'none')}"
        )
    return Prior(params, model, Metadata.of(**description))


def update_prior(directory: str | os.PathLike[str], **values: Any) -> None:
    """Change what a prior's `prior.json` says of it, all or nothing; the model stays as it is.

    Args:
        directory: the prior's folder.
        values: what to say; a value None takes an entry out.

    Raises:
        PriorError: the folder holds no prior.
        ValueError: a value that only `Prior.save` may write, or one that the schema does not allow.
    """
    if fixed := {"format", "family", "config", "sha256", "parameters", "dtype"} & set(values):
        raise ValueError(f"expected what a prior says of itself, got {min(fixed)}, which goes with its parameters")
    description = _read(Path(directory))
    description = {name: value for name, value in (description | values).items() if value is not None}
    check_description(description)
    write_atomically(Path(directory) / "prior.json", (json.dumps(description, indent=2) + "\n").encode())


def _read(directory: Path) -> dict[str, Any]:
    """A prior's description, checked; `PriorError` if there is none."""
    try:
        return read_description(directory / "prior.json")
    except FileNotFoundError:
        raise PriorError(f"{directory} is not a prior: it has no prior.json") from None
    except (OSError, ValueError) as error:
        raise PriorError(f"{directory}/prior.json is damaged or not a prior's: {reason(error)}") from error


def _alone() -> ocp.options.MultiprocessingOptions:
    """Reading and writing without the other processes, where there are several."""
    me = jax.process_index()
    prefix = f"process{me}" if jax.process_count() > 1 else None
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me} if prefix else None, barrier_sync_key_prefix=prefix
    )


def find_prior(name: str | os.PathLike[str]) -> Path:
    """The folder of a prior: that of a bundled one, or the directory itself; `PriorError` if there is none."""
    bundled = Path(str(resources.files("hvae_jax") / "pretrained"))
    names = sorted(path.parent.name for path in bundled.glob("*/prior.json"))
    if str(name) in names:  # before any folder of that name in the working directory
        return bundled / str(name)
    if Path(name).is_dir():
        return Path(name).resolve()
    raise PriorError(f"expected the name of a bundled prior {names} or a prior's directory, got {str(name)!r}")


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """Of each parameter, by its name."""
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
