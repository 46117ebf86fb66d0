"""The numbers of the paper's tables (Prost et al. 2023), to stand beside ours; the images differ."""

TABLE_1: dict[tuple[str, str], tuple[float, float, float, float]] = {
    ("SR x4", "adam"): (28.56, 0.75, 0.38, 26),
    ("SR x4", "ilo"): (28.80, 0.78, 0.17, 34),
    ("SR x4", "pnp-hvae"): (29.32, 0.82, 0.28, 15),
    ("SR x4", "dps"): (27.53, 0.76, 0.12, 153),
    ("Deblurring (motion)", "adam"): (26.69, 0.75, 0.27, 12),
    ("Deblurring (motion)", "ilo"): (29.01, 0.80, 0.20, 34),
    ("Deblurring (motion)", "pnp-hvae"): (30.40, 0.84, 0.16, 10),
    ("Deblurring (motion)", "dps"): (28.70, 0.80, 0.11, 142),
    ("Deblurring (Gaussian)", "adam"): (30.17, 0.83, 0.21, 12),
    ("Deblurring (Gaussian)", "ilo"): (29.12, 0.79, 0.17, 34),
    ("Deblurring (Gaussian)", "pnp-hvae"): (30.81, 0.86, 0.24, 10),
    ("Deblurring (Gaussian)", "dps"): (29.14, 0.81, 0.10, 142),
}
"""Faces, by task and method: PSNR, SSIM, LPIPS, seconds."""

TABLE_2: dict[tuple[float, str], tuple[float, float, float]] = {
    (2.55, "pnp-hvae"): (27.75, 0.79, 0.31),
    (2.55, "gs-pnp"): (29.59, 0.84, 0.22),
    (2.55, "epll"): (26.49, 0.71, 0.36),
    (2.55, "pnp-mmo"): (29.50, 0.83, 0.20),
    (7.65, "pnp-hvae"): (26.36, 0.72, 0.40),
    (7.65, "gs-pnp"): (27.33, 0.77, 0.31),
    (7.65, "epll"): (24.04, 0.66, 0.45),
    (7.65, "pnp-mmo"): (25.34, 0.69, 0.34),
    (12.75, "pnp-hvae"): (25.12, 0.73, 0.47),
    (12.75, "gs-pnp"): (26.32, 0.73, 0.37),
    (12.75, "epll"): (23.28, 0.61, 0.51),
    (12.75, "pnp-mmo"): (22.42, 0.53, 0.54),
}
"""Deblurring, by noise level and method: PSNR, SSIM, LPIPS, means over four kernels."""

TABLE_3: dict[str, tuple[float, float, float]] = {
    "pnp-hvae": (29.54, 0.93, 0.06),
    "gs-pnp": (28.52, 0.93, 0.09),
    "epll": (29.16, 0.93, 0.06),
}
"""Inpainting of small objects, by method: PSNR, SSIM, LPIPS."""

TABLE_4: dict[int, tuple[float, float, float, float]] = {
    6: (27.25, 26.10, 24.78, -1.24),
    12: (27.87, 26.41, 25.16, -1.14),
    18: (27.82, 26.74, 25.57, -1.10),
    36: (27.71, 26.51, 25.27, -1.10),
}
"""By the number of levels: PSNR of deblurring at σ = 2.55, 7.65 and 12.75, and the validation ELBO."""
