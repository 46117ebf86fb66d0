"""From a checkpoint to a prior: exact coverage, the architecture, provenance, and the command line."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hj
from benchmarks.torch_writer import save
from benchmarks.vdvae import official_shapes
from conversion import cli, convert, vdvae
from conversion.convert import read, to_prior
from conversion.families import LAYOUTS
from conversion.mapping import expand
from conversion.torch_file import CheckpointError, Storage, Tensor, load
from hvae_jax import images
from hvae_jax.models.vdvae import PRESETS as VDVAE_PRESETS
from tests.golden_arrays import close
from tests.helpers import GOLDEN, OFFICIAL
from tests.test_torch_file import BROKEN, FORGED, LIVE, archive, legacy_file, marker, zip_file  # noqa: F401

FAMILIES = pytest.mark.parametrize("family", OFFICIAL)
HYPERPARAMETERS = str(GOLDEN / "tiny_vdvae.json")

LAYERS = {
    "cifar10": {
        "dataset": "cifar10",
        "width": 384,
        "enc_blocks": "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3",
        "dec_blocks": "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21",
    },
    "imagenet32": {
        "dataset": "imagenet32",
        "width": 512,
        "enc_blocks": "32x15,32d2,16x9,16d2,8x8,8d2,4x6,4d4,1x6",
        "dec_blocks": "1x2,4m1,4x4,8m4,8x9,16m8,16x19,32m16,32x40",
    },
    "imagenet64": {
        "dataset": "imagenet64",
        "width": 512,
        "enc_blocks": "64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5",
        "dec_blocks": "1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12",
    },
    "ffhq256": {
        "dataset": "ffhq_256",
        "width": 512,
        "enc_blocks": "256x3,256d2,128x8,128d2,64x12,64d2,32x17,32d2,16x7,16d2,8x5,8d2,4x5,4d4,1x4",
        "dec_blocks": "1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x21,64m32,64x13,128m64,128x7,256m128",
    },
    "ffhq1024": {
        "dataset": "ffhq_1024",
        "width": 16,
        "num_mixtures": 2,
        "custom_width_str": "512:32,256:64,128:512,64:512,32:512,16:512,8:512,4:512,1:512",
        "enc_blocks": "1024x1,1024d2,512x3,512d2,256x5,256d2,128x7,128d2,64x10,64d2,32x14,32d2,16x7,16d2,8x5,8d2,4x5,"
        "4d4,1x4",
        "dec_blocks": "1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x20,64m32,64x14,128m64,128x7,256m128,256x2,512m256,"
        "1024m512",
    },
}
"""OpenAI's hyperparameters of its models."""


def golden(family: str) -> tuple[dict, str | None]:
    """The official state dict of a family as arrays, and the converter's preset."""
    file, preset = OFFICIAL[family]
    return {name: np.asarray(tensor) for name, tensor in read(GOLDEN / file, preset).state.items()}, preset


def listed(file: str) -> dict[str, Tensor]:
    """Tensors without numbers, of the names and shapes in a list; `shift` and `scale` are not in the checkpoints."""
    lines = (line.split(" ", 1) for line in (GOLDEN / file).read_text().splitlines())
    shapes = {name: tuple(json.loads(f"[{shape.strip('(),')}]")) for name, shape in lines}
    return tensors({name: shape for name, shape in shapes.items() if name not in ("shift", "scale")})


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: Tensor(Storage("", np.dtype(np.float32), 0), 0, shape, ()) for name, shape in shapes.items()}


# Architectures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "preset", "names"),
    [("vdvae", "ffhq256", "ffhq256_params.txt"), ("patch_vdvae", "official", "official_patchvdvae_params.txt")],
)
def test_the_full_models_are_recognized(family, preset, names):
    state = listed(names)
    chosen, config, differences = convert._architecture(family, state, None)
    assert (chosen, differences) == (preset, [])
    assert config == LAYOUTS[family].presets[preset]
    assert not convert._mismatches(family, state, config)
    assert set(expand(LAYOUTS[family].rules(config))) == set(state)
    if family == "vdvae":  # so that what the benchmarks convert is laid out like the real file
        assert official_shapes(config) == {name: tensor.shape for name, tensor in state.items()}


@pytest.mark.parametrize("preset", LAYERS)
def test_openais_layer_strings_are_those_of_the_presets(preset):
    assert vdvae.parse(LAYERS[preset]) == VDVAE_PRESETS[preset]


def test_blocks_that_the_published_ffhq1024_lacks_are_reported():
    state = {
        name: tensor
        for name, tensor in tensors(official_shapes(VDVAE_PRESETS["ffhq1024"])).items()
        if not re.search(r"enc_blocks\.6[89]\.", name)
    }
    chosen, config, differences = convert._architecture("vdvae", state, None)
    assert chosen == "ffhq1024"
    assert differences == ["resolutions[0] encoder_blocks: 2 in the file, 4 in the preset"]
    assert not convert._mismatches("vdvae", state, config)


def test_a_file_of_another_preset_is_refused():
    state = listed("ffhq256_params.txt")
    _, config, _ = convert._architecture("vdvae", state, "imagenet64")
    problems = convert._mismatches("vdvae", state, config)
    assert any(line.startswith("missing from the file: decoder.dec_blocks.66.") for line in problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "mnist"}, "expected a dataset of .* got 'mnist'"),
        ({"dec_blocks": None}, "these are missing: dec_blocks"),
        ({"dec_blocks": "1x1,4y1"}, "expected blocks such as 4x2 or 4m1, got '4y1'"),
        ({"dec_blocks": "1x1,4m1,4m1"}, "expected one 4m, got two"),
        ({"enc_blocks": "32x2,32d2,8x3"}, "expected enc_blocks that end each resolution"),
        ({"custom_width_str": "wide"}, "expected custom_width_str such as"),
    ],
)
def test_bad_hyperparameters(change, message):
    given = {name: value for name, value in (LAYERS["cifar10"] | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        vdvae.parse(given)


# Coverage -------------------------------------------------------------------------------------------------------------


@FAMILIES
def test_everything_that_does_not_fit_is_listed_and_nothing_is_written(tmp_path, capsys, family):
    state, preset = golden(family)
    names = list(state)
    dropped, renamed, reshaped = names[1], names[len(names) // 2], [n for n in names if state[n].ndim == 4][-2]
    del state[dropped]
    state["decoder.strange"] = state.pop(renamed)
    state[reshaped] = np.zeros((7, *state[reshaped].shape[1:]), np.float32)
    save(state, tmp_path / "x.pth")
    arguments = [str(tmp_path / "x.pth"), "--out", str(tmp_path / "new" / "prior")]
    assert cli.main([*arguments, *(["--preset", preset] if preset else [])]) == 2
    _, err = capsys.readouterr()
    for line in (
        f"missing from the file: {dropped}",
        f"missing from the file: {renamed}",
        "not a parameter of this model: decoder.strange",
        f"of another shape: {reshaped} is (7, ",
    ):
        assert line in err, err
    assert re.search(r"error: .* does not fit .*\d+ mismatches above; nothing was written\n$", err)
    assert os.listdir(tmp_path) == ["x.pth"]


@FAMILIES
def test_both_formats_prefixes_and_precisions_give_the_same_prior(tmp_path, family):
    state, preset = golden(family)
    expected = to_prior(read(GOLDEN / OFFICIAL[family][0], preset)).params
    legacy = GOLDEN / OFFICIAL[family][0].replace(".", "_legacy.")
    jax.tree.map(np.testing.assert_array_equal, to_prior(read(legacy, preset)).params, expected)

    save({f"module.{name}": array.astype(np.float64) for name, array in state.items()}, tmp_path / "ddp.pth")
    jax.tree.map(np.testing.assert_array_equal, to_prior(read(tmp_path / "ddp.pth", preset)).params, expected)
    save({name: array.astype(np.float16) for name, array in state.items()}, tmp_path / "half.pth")
    half = to_prior(read(tmp_path / "half.pth", preset)).params
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), half, expected)


def test_averaged_and_raw_weights(tmp_path):
    file = GOLDEN / "tiny_patchvdvae.pth"
    content = load(file)
    for weights, key in (("ema", "ema_model_state_dict"), ("raw", "model_state_dict")):
        checkpoint = read(file, weights=weights)
        name = "top_down.levels_down_upsample.1.unpool.scale_bias"  # created by the first forward pass
        place = to_prior(checkpoint).params["unpools_0"]["scale_bias"]
        np.testing.assert_array_equal(np.ravel(place), np.ravel(content[key][name]))
        assert checkpoint.weights == weights
    assert read(file).weights == "ema"
    assert not np.array_equal(content["ema_model_state_dict"][name], content["model_state_dict"][name])

    arrays = {key: np.asarray(tensor) for key, tensor in content["model_state_dict"].items()}
    save({"model_state_dict": arrays, "global_step": 3}, tmp_path / "raw.pth")
    assert read(tmp_path / "raw.pth", weights="raw").weights == "raw"
    with pytest.raises(CheckpointError, match=r"holds no ema weights .* give --weights raw"):
        read(tmp_path / "raw.pth")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float32(np.nan), "holds NaN or infinity"),
        (np.float64(1e300), "holds NaN or infinity"),  # of float32
        (np.int64(1), "is of int64"),
    ],
)
def test_weights_that_are_no_numbers(tmp_path, value, message):
    state, preset = golden("vdvae")
    state["encoder.in_conv.bias"] = np.full(state["encoder.in_conv.bias"].shape, value)
    save(state, tmp_path / "x.th")
    with pytest.raises(ValueError, match=f"encoder.in_conv.bias {message}"):
        to_prior(read(tmp_path / "x.th", preset))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict: expected a dict of tensors, got list"),
        ({"weights": 3}, "holds no state dict: expected named tensors.* got weights"),
        ({}, "holds no state dict"),
        ({"fc.weight": np.zeros(3, np.float32)}, "holds no VDVAE and no PatchVDVAE.* got fc.weight"),
        ({"ema_model_state_dict": 3}, "holds no state dict"),
        ({"decoder.dec_blocks.\x1b[31m": np.zeros(3, np.float32)}, r"named 'decoder.dec_blocks.\\x1b\[31m', expected"),
        ({"top_down.levels_down_upsample.0.x": np.zeros(3, np.float32)}, "expected a 4-dimensional top_down"),
    ],
)
def test_files_of_something_else(tmp_path, content, message):
    save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message) as caught:
        to_prior(read(tmp_path / "x.pth"))
    assert str(tmp_path / "x.pth") in str(caught.value)


# The command line -----------------------------------------------------------------------------------------------------


def command(module, *arguments, cwd):
    line = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@FAMILIES
@pytest.mark.parametrize("prefix", ["module.", "module.module.", "model.", "_orig_mod.module.", ""])
def test_wrappers_of_training_programs(family, prefix):
    """Lightning's and others' checkpoints, wrapped modules: the same tensors under their own names."""
    state = dict(read(GOLDEN / OFFICIAL[family][0], OFFICIAL[family][1]).state)
    wrapped = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    for content in (wrapped, {"state_dict": wrapped, "epoch": 3}, {"model": {"state_dict": wrapped}, "optimizer": {}}):
        assert convert._select(Path("a.ckpt"), content, None) == (state, None)


def safetensors_file(arrays: dict[str, np.ndarray]) -> bytes:
    header, numbers = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        content = array.astype(np.float32).tobytes()
        place = [len(numbers), len(numbers) + len(content)]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": place}
        numbers += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def test_safetensors_and_gzip(tmp_path):
    state, preset = golden("patch_vdvae")
    (tmp_path / "a.safetensors").write_bytes(safetensors_file(state))
    file = OFFICIAL["patch_vdvae"][0]
    (tmp_path / "a.pth.gz").write_bytes(gzip.compress((GOLDEN / file).read_bytes()))
    expected = to_prior(read(GOLDEN / file, preset)).params
    for name in ("a.safetensors", "a.pth.gz"):
        prior = to_prior(read(tmp_path / name, preset))
        jax.tree.map(np.testing.assert_array_equal, prior.params, expected)
        assert prior.info["provenance"]["source"] == name


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "damaged or no safetensors file"),
        (bytes(7) + b"\1" + bytes(10), "declares a header of"),
        ((5).to_bytes(8, "little") + b"[1,2]" + bytes(9), "a header that is no object"),
        (safetensors_file({"a": np.zeros(4)})[:-1], "a tensor of shape"),
        (safetensors_file({"a": np.zeros(4)}).replace(b"[4]", b"[9]"), "a tensor of shape"),
        (safetensors_file({"a": np.zeros(4)}).replace(b'"F32"', b'"X32"'), "X32"),
    ],
)
def test_damaged_safetensors(tmp_path, content, sentence):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        read(tmp_path / "a.safetensors")
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1000))[:-9])
    with pytest.raises(CheckpointError, match="a damaged gzip file"):
        read(tmp_path / "a.gz")


@pytest.mark.parametrize(
    ("family", "file", "options"),
    [
        pytest.param("vdvae", "tiny_vdvae_legacy.th", ("--preset", HYPERPARAMETERS), marks=pytest.mark.slow),
        pytest.param("patch_vdvae", "tiny_patchvdvae.pth", (), marks=pytest.mark.slow),
    ],
)
def test_convert_and_restore(tmp_path, capsys, family, file, options):
    # The conversion of one family in a process of its own, of the other here.
    arguments = [str(GOLDEN / file), "--out", str(tmp_path / "prior"), *options]
    if family == "vdvae":
        result = command("conversion", *arguments, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        printed = result.stdout
    else:
        assert cli.main(arguments) == 0
        printed, _ = capsys.readouterr()
    assert re.search(rf"prior: {family}, .* levels, [\d,]+ parameters, converted in [\d.]+ s\n$", printed)
    assert os.listdir(tmp_path) == ["prior"]

    prior = hj.load_prior(tmp_path / "prior")
    told = prior.info["provenance"]
    assert told["sha256"] == hashlib.sha256((GOLDEN / file).read_bytes()).hexdigest()
    assert told["bytes"] == (GOLDEN / file).stat().st_size
    assert (told["source"], told["family"]) == (file, family)
    assert told["preset"] == ("tiny_vdvae" if options else None)
    assert told["weights"] == ("ema" if family == "patch_vdvae" else None)
    assert re.fullmatch(r"hvae_jax \d+\.\d+\.\d+", told["converter"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", told["date"])
    if family == "vdvae":
        with np.load(GOLDEN / "tiny_vdvae.npz") as arrays:
            mean = hj.reconstruct(prior, arrays["x"].astype(np.float32), arrays["T_const"])
            close(mean, arrays["const/lr_mu"], 1e-4)
        images.write_image(tmp_path / "photo.png", np.random.default_rng(0).random((32, 32, 3)))
        options = ("--prior", "prior", "--task", "denoise", "--noise-std", 5, "--iterations", 2)
        result = command("hvae_jax", "restore", "photo.png", "--out", "x.png", *options, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert images.read_image(tmp_path / "x.png").pixels.shape == (32, 32, 3)


@pytest.mark.slow
def test_check_prints_the_same_numbers_each_time(tmp_path, capsys):
    printed = []
    for name in "ab":
        arguments = [str(GOLDEN / "tiny_vdvae.th"), "--preset", HYPERPARAMETERS, "--out", str(tmp_path / name)]
        assert cli.main([*arguments, "--check"]) == 0
        printed.append(capsys.readouterr()[0].splitlines()[1:])
    assert printed[0] == printed[1]
    assert re.match(r"encoding: log p\(z\) -?[\d.]+ nats per number", printed[0][0])
    assert re.match(r"restoring, 5 iterations: [\d.]+ dB -> [\d.]+ dB", printed[0][1])


def test_inspect(tmp_path, capsys):
    assert cli.main([str(GOLDEN / "tiny_vdvae.th"), "--inspect", "--preset", HYPERPARAMETERS]) == 0
    out, _ = capsys.readouterr()
    for row in (
        r"family +vdvae",
        r"preset +tiny_vdvae",
        r"parameters +119,164",
        r"dtype +float32 \(561\)",
        r"levels +16",
    ):
        assert re.search(row, out), out
    assert cli.main([str(GOLDEN / "tiny_vdvae.th"), "--inspect"]) == 0  # of an unknown architecture
    assert "give its hyperparameters" in re.sub(r"\s+", " ", capsys.readouterr()[0])
    assert cli.main([str(GOLDEN / "tiny_patchvdvae.pth"), "--inspect", "--weights", "raw"]) == 0
    assert re.search(r"weights +raw", capsys.readouterr()[0])


def test_inspect_shows_names_as_they_are(tmp_path, capsys):
    save({"decoder.dec_blocks.0.[/bold]": np.zeros(3, np.float32)}, tmp_path / "x.th")
    assert cli.main([str(tmp_path / "x.th"), "--inspect", "--preset", HYPERPARAMETERS]) == 0
    assert "[/bold]" in capsys.readouterr()[0]


def test_help(capsys):
    assert cli.main([]) == 0
    out, _ = capsys.readouterr()
    assert all(word in out for word in ("--out", "--preset", "--weights", "--inspect", "--check", "vdvae-ffhq256"))


TINY = str(GOLDEN / "tiny_vdvae.th")
MISTAKES = {
    "no such file": (("none.pth", "--out", "new"), "expected a file or one of vdvae-ffhq256.*got 'none.pth'"),
    "a mistyped name": (("vdvae-ffhq265", "--out", "new"), "expected a file or one of vdvae-ffhq256"),
    "nothing to do": ((TINY,), "expected either --out DIR.*or --inspect"),
    "both": ((TINY, "--out", "new", "--inspect"), "expected either --out DIR.*or --inspect"),
    "inspect and check": ((TINY, "--inspect", "--check"), "expected --check with --out"),
    "it exists": ((TINY, "--out", "there"), "there exists; give another directory"),
    "not a prior": ((TINY, "--out", "there", "--overwrite"), "there exists; give another directory"),
    "unknown preset": ((TINY, "--out", "new", "--preset", "faces"), "expected a preset of vdvae.*got 'faces'"),
    "no preset file": ((TINY, "--out", "new", "--preset", "x.json"), "x.json cannot be read: No such file"),
    "preset file": ((TINY, "--out", "new", "--preset", "bad.json"), "bad.json is not a JSON file"),
    "preset list": ((TINY, "--out", "new", "--preset", "list.json"), "expected a JSON object in list.json, got list"),
    "unknown architecture": ((TINY, "--out", "new"), "this VDVAE has 16 levels.*give its hyperparameters"),
    "weights": ((TINY, "--out", "new", "--weights", "mean"), "mean"),
    "a directory": (("there", "--out", "new"), "there cannot be read: Is a directory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_sentence(tmp_path, monkeypatch, capsys, mistake):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("bad.json").write_text("{")
    Path("list.json").write_text("[]")
    arguments, sentence = MISTAKES[mistake]
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err), err
    assert re.search(sentence, err), err
    assert sorted(os.listdir()) == ["bad.json", "list.json", "there"]


@pytest.mark.parametrize("name", [*LIVE, *BROKEN, *FORGED])
def test_a_malicious_file_leaves_no_directory(marker, capsys, name):  # noqa: F811
    """Those of test_torch_file, through the command line."""
    content = FORGED[name][0] if name in FORGED else zip_file((LIVE | BROKEN)[name][0])
    Path("evil.pth").write_bytes(content)
    assert cli.main(["evil.pth", "--out", "prior"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: evil\.pth .+\n", err), err
    assert os.listdir() == ["evil.pth"]


def test_a_damaged_checkpoint_leaves_no_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = (GOLDEN / "tiny_vdvae.th").read_bytes()
    Path("cut.th").write_bytes(content[: len(content) // 2])
    assert cli.main(["cut.th", "--out", "prior", "--preset", HYPERPARAMETERS]) == 2
    assert re.fullmatch(r"error: cut\.th is damaged or cut short.*\n", capsys.readouterr()[1])
    assert os.listdir() == ["cut.th"]
