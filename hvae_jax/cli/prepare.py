"""From the options of `hvae-jax restore` to what restores a picture with them; here, and on each actor of a cluster."""

from __future__ import annotations

from functools import partial
from typing import Any

import typer

import hvae_jax as hj
from hvae_jax import folders
from hvae_jax.cli.reports import check_turned, data_step_solver, digest, missing_in_words, one_of
from hvae_jax.cli.run import Run
from hvae_jax.cli.shared import GREY_LEVELS, load_prior, parse_noise_std, parse_range, parse_temperature, scaled


def check_options(given: Any) -> None:
    """Refuse what can be refused before anything is read."""
    parse_noise_std(given.noise_std)
    parse_range(given.value_range)
    for option, value in (("--kernel-size", given.kernel_size), ("--save-kernel", given.save_kernel)):
        if value is not None and given.kernel != "estimate":
            raise ValueError(f"expected {option} with --kernel estimate only, got it without")
    if given.save_kernel is not None:
        hj.images.check_writable(given.save_kernel, given.overwrite)
    one_of("--light", given.light, ("display", "linear"))
    one_of("--initial", given.initial, ("encode", "image"))
    one_of("--returns", given.returns, ("x", "mean"))
    data_step_solver(given.data_step, given.cg_steps)


def prepare(given: Any, several: bool, writer: str) -> Run:
    """Read prior, kernel and mask, and check the options with them.

    Args:
        given: the options by name.
        several: whether results go into a folder.
        writer: whose manifest this is; empty for the only process.

    Returns:
        What restores pictures.

    Raises:
        ValueError: something does not fit.
    """
    import jax

    from hvae_jax import photographs

    sigma, values = parse_noise_std(given.noise_std), parse_range(given.value_range)
    # Kernel and mask are read once, for all pictures.
    observed = None if given.mask is None else hj.images.read_mask(given.mask, invert=given.invert_mask)
    degradation = photographs.Degradation.of(
        given.task, given.kernel, given.factor, observed, given.align, given.keep_origin
    )
    for note in degradation.notes:
        typer.echo(note, err=True)
    model = load_prior(given.prior)
    changes = {
        "temperature": None if given.temperature is None else parse_temperature(given.temperature, model.levels),
        "decoder_std": scaled("--decoder-std", given.decoder_std),
        "noise_level": scaled("--noise-level", given.noise_level),
        "stop": None if given.tolerance is None else hj.restoration.Residual(given.tolerance / GREY_LEVELS),
        "max_iterations": given.iterations,
        "data_step": data_step_solver(given.data_step, given.cg_steps),
        "initial": given.initial,
        "returns": given.returns,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    photographs.check_changes(model, changes)
    estimated = {}
    if degradation.is_unknown:
        estimated = {} if given.kernel_size is None else {"kernel_size": given.kernel_size}
        photographs.check_estimation(prior=model, **{"kernel_size": photographs.KERNEL_SIZE, **estimated})
    side = photographs.fitting_side(model, degradation.factor, given.resize)
    settings = {
        "task": given.task,
        "kernel": digest(degradation.kernel),
        "mask": digest(degradation.mask),
        "prior": model.info.get("sha256") or model.digest,
        "settings": digest(model.info.get("settings")),
        "options": [
            *(given.factor, given.align, sigma, given.noise_gain, given.value_range, given.light, given.boundary),
            *(given.resize, given.quality, given.strip, given.seed),
        ],
        "more": [
            given.uncertainty is not None and digest(model.info.get("calibration")),
            *(f"{name}={digest(value)}" for name, value in sorted({**changes, **estimated}.items())),
        ],
        "version": hj.__version__,
    }
    restore = partial(
        photographs.restore_photograph,
        task=given.task,
        kernel="estimate" if degradation.is_unknown else degradation.kernel,
        **estimated,
        factor=given.factor,
        align="corner",  # the kernel has been moved already
        mask=degradation.mask,
        noise_std=sigma,
        noise_gain=given.noise_gain / GREY_LEVELS,
        value_range=values,
        light=given.light,
        boundary=given.boundary,
        prior=model,
        resize=given.resize,
        uncertainty=None if given.uncertainty is None else jax.random.key(given.seed),
        quality=given.quality,
        memory=None if given.memory is None else given.memory * 2**30,
        **changes,
    )

    def check(picture: hj.images.Image) -> tuple[int, int]:
        if observed is not None:
            check_turned(picture, given.mask)
        fitted = photographs.fit(picture, side)
        return photographs.check(fitted, degradation.fitted(side), given.boundary, model, sigma)

    return Run(
        check=check,
        restore=restore,
        manifest=folders.Manifest(settings, writer),
        reference=given.reference,
        side=None if side is None else side * degradation.factor,
        values=values,
        note=missing_in_words(observed),
        overwrite=given.overwrite,
        resume=given.resume and not given.overwrite and several,
        strip=given.strip,
        strict=given.strict,
        save_kernel=given.save_kernel,
        keep_going=given.keep_going,
        out_is_standard=given.out == folders.STANDARD,
    )
