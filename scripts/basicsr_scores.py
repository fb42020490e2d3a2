"""PSNR and SSIM by BasicSR's formulas, in numpy, f64: the reference for the profile `lm4lv`.

Images are `[H, W, 3]` uint8 RGB. `crop` pixels are cut from each side first; identical images score 100 dB, as in the
LM4LV authors' evaluation (BasicSR's own code says infinity).
"""

import numpy as np


def cropped(image, crop):
    return image[crop : image.shape[0] - crop, crop : image.shape[1] - crop].astype(np.float64)


def psnr(a, b, crop=4):
    """10 log10(255^2 / MSE) over all pixels and channels, dB."""
    mse = np.mean((cropped(a, crop) - cropped(b, crop)) ** 2)
    return 100.0 if mse == 0 else 10.0 * np.log10(255.0**2 / mse)


def window():
    """The 11-tap Gaussian of standard deviation 1.5 that makes SSIM's 11x11 window."""
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    return weights / weights.sum()


def filtered(plane, weights):
    """Both ways, only where the window fits (`valid`)."""
    rows = np.lib.stride_tricks.sliding_window_view(plane, len(weights), axis=1) @ weights
    return np.lib.stride_tricks.sliding_window_view(rows, len(weights), axis=0) @ weights


def ssim(a, b, crop=4):
    """Mean of the SSIM map over the valid positions, then over the channels."""
    a, b = cropped(a, crop), cropped(b, crop)
    weights = window()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = []
    for channel in range(3):
        x, y = a[..., channel], b[..., channel]
        mean_x, mean_y = filtered(x, weights), filtered(y, weights)
        var_x = filtered(x * x, weights) - mean_x**2
        var_y = filtered(y * y, weights) - mean_y**2
        both = filtered(x * y, weights) - mean_x * mean_y
        above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
        below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
        scores.append(np.mean(above / below))
    return float(np.mean(scores))
