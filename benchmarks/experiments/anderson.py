"""Anderson acceleration of Algorithm 2: evaluations of the network to where 50 plain iterations come, and PSNR."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import hvae_jax as hj
from benchmarks import problems
from benchmarks.experiments.common import Options, paper_experiment
from hvae_jax.images import make_mask
from hvae_jax.operators import Blur, Inpainting, SuperResolution
from hvae_jax.restoration.pnp_hvae import encode_decode
from hvae_jax.restoration.problem import Problem, pose

TITLE, PAPER = "Anderson acceleration", ""
ITERATIONS, MEMORIES, SIGMAS = 50, (3, 5), (2.55, 7.65)
RIDGE = 1e-6  # of the least squares, relative to the mean square of the differences
COLUMNS = ["case", "memory", "evaluations", "most", "half", "plain PSNR", "Anderson", "least", "greatest", "equal"]
COLUMNS += ["plain by then"]
NOTE = (
    "Evaluations to the residual ‖T(x) - x‖/‖x‖ that the plain iterations end with: median, most, and the images where "
    "they are at most half. PSNR (dB) of the plain iterations in the end; what Anderson acceleration has more at this "
    "residual (mean, least, greatest), images where it is within 0.02; what plain iterations have more by then (mean)."
)


class Anderson:
    """Anderson acceleration of x <- T(x) for one image; the plain step, and no memory, where the residual grows.

    x_{k+1} = T(x_k) - Σ_j θ_j (T(x_{j+1}) - T(x_j)),  θ = argmin ‖f_k - Σ_j θ_j (f_{j+1} - f_j)‖²,  f = T(x) - x

    Args:
        memory: how many differences are kept; 0 for the plain iteration.

    Source:
        Walker and Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49, 2011.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []  # x and T(x), the latest last

    def __call__(self, x: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The next x, from x and T(x)."""
        if self.kept and np.linalg.norm(image - x) > np.linalg.norm(self.kept[-1][1] - self.kept[-1][0]):
            self.kept = []
        self.kept = [*self.kept, (x, image)][-self.memory - 1 :]
        if len(self.kept) == 1:
            return image
        images = np.stack([image.ravel() for _, image in self.kept])
        residuals = images - np.stack([x.ravel() for x, _ in self.kept])
        change = np.diff(residuals, axis=0)
        gram = change @ change.T
        ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        theta = np.linalg.solve(gram + ridge, change @ residuals[-1])
        return image - (theta @ np.diff(images, axis=0)).reshape(image.shape)


@jax.jit
def plain(problem: Problem, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """T: the tempered encoding, decoded, and the data step."""
    first, beta = jnp.zeros(x.shape[:1], jnp.int32), jnp.ones(x.shape[:1], x.dtype)
    mean, _ = encode_decode(problem, x, beta, first)
    return problem.data_step()(mean, problem.ratio(beta, problem.decoder_std(first)))


def cases(options: Options, sigma: float) -> Iterator[problems.Problem]:
    """Two blurs, two inpaintings and a super-resolution."""
    kernels, size = problems.load_kernels(options.kernels, ("k3", "k4", "k11")), options.images.pixels.shape[1]
    operators = {f"blur {name}": Blur(kernels[name]) for name in ("k4", "k11")}
    operators |= {kind: Inpainting(make_mask(kind, size, options.seed)) for kind in ("random50", "boxes")}
    for name, operator in {**operators, "x2": SuperResolution(kernels["k3"], 2)}.items():
        yield problems.observe({"case": name}, operator, sigma, options.images, options.seed)


def curves(options: Options, case: problems.Problem, memory: int) -> dict[str, list[list[float]]]:
    """‖T(x) - x‖/‖x‖ and the PSNR of T(x), of each image along the iterations."""
    config = hj.paper_config(paper_experiment(case.operator, case.noise_std, False), options.prior.levels)
    problem, _ = pose(options.prior, case.observed, case.operator, case.noise_std, config, None, None)
    x = np.asarray(problem.x0, np.float64)
    solvers = [Anderson(memory) for _ in x]
    residual, psnr = [], []
    for _ in range(ITERATIONS):
        image = np.asarray(plain(problem, jnp.asarray(x, problem.y.dtype)), np.float64)
        residual.append(np.linalg.norm((image - x).reshape(len(x), -1), axis=1) / [np.linalg.norm(one) for one in x])
        psnr.append(-10 * np.log10(np.mean((image - case.clean) ** 2, axis=(1, 2, 3))))
        x = np.stack([solver(*pair) for solver, *pair in zip(solvers, x, image, strict=True)])
    return {"residual": np.stack(residual, axis=1).tolist(), "PSNR": np.stack(psnr, axis=1).tolist()}


def compare(plain: dict[str, list], accelerated: dict[str, list]) -> Float[np.ndarray, "4 N"]:
    """Of each image: evaluations (one more than all: never), and the three numbers in dB of `NOTE`."""
    reached = np.array(accelerated["residual"]) <= np.array(plain["residual"])[:, -1:]
    count = np.where(reached.any(axis=1), 1 + reached.argmax(axis=1), ITERATIONS + 1)
    at, psnr = (np.arange(len(count)), np.minimum(count, ITERATIONS) - 1), np.array(plain["PSNR"])
    return np.stack([count, psnr[:, -1], np.array(accelerated["PSNR"])[at] - psnr[:, -1], psnr[at] - psnr[:, -1]])


def run(options: Options) -> None:
    """Run it; all images in one call."""
    with options.start("anderson", TITLE, PAPER, iterations=ITERATIONS, ridge=RIDGE) as run:
        run.expect(5 * len(SIGMAS) * (1 + len(MEMORIES)))
        found: dict[tuple[str, int], np.ndarray] = {}
        for case in (case for sigma in SIGMAS for case in cases(options, sigma)):
            rows = {m: run.row({**case.label, "memory": m}, partial(curves, options, case, m)) for m in (0, *MEMORIES)}
            label = f"{case.label['case']}, σ = {case.label['σ']}"
            found |= {(label, m): compare(rows[0], rows[m]) for m in MEMORIES}
        whole = {("all", m): np.concatenate([found[key] for key in found if key[1] == m], axis=1) for m in MEMORIES}
        lines = []
        for key, (count, end, more, same) in {**found, **whole}.items():
            half, equal = int((count <= ITERATIONS / 2).sum()), int((np.abs(more) <= 0.02).sum())
            psnr = [round(float(x), 3) for x in (end.mean(), more.mean(), more.min(), more.max(), same.mean())]
            lines.append([*key, float(np.median(count)), int(count.max()), half, *psnr[:4], equal, psnr[4]])
        run.table(f"Evaluations to the residual of {ITERATIONS} plain iterations", COLUMNS, lines, notes=[NOTE])
        run.finish()
