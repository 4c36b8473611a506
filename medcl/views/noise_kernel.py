"""Normal numbers by counter in one kernel of Triton, the arithmetic of elementary.add_noise. Imported only where a GPU is."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normal_numbers(out, keys, deviations, count, block: tl.constexpr):
    """Fill (views, count) float32. keys, deviations: one for each view. A program fills four times block numbers of a view."""
    view, first = tl.program_id(1), tl.program_id(0) * block
    place = tl.arange(0, block)
    counter = (first + place).to(tl.uint32)
    zero = counter * 0
    words_0, words_1, words_2, words_3 = tl.philox(tl.load(keys + view), counter, zero, zero, zero)
    deviation = tl.load(deviations + view)
    cosine_0, sine_0 = _box_muller(words_0, words_1, deviation)
    cosine_1, sine_1 = _box_muller(words_2, words_3, deviation)
    out += view.to(tl.int64) * count
    at = 4 * first + place
    tl.store(out + at, cosine_0, at < count)
    tl.store(out + at + block, sine_0, at + block < count)
    tl.store(out + at + 2 * block, cosine_1, at + 2 * block < count)
    tl.store(out + at + 3 * block, sine_1, at + 3 * block < count)


@triton.jit
def _box_muller(size_words, angle_words, deviation):
    # 2 ** -24; then pi * 2 ** -23 and pi / 2: a kernel knows no names of this file.
    radius = deviation * tl.sqrt(-2 * tl.log(((size_words >> 8).to(tl.float32) + 0.5) * 5.960464477539063e-08))
    angle = ((angle_words >> 9).to(tl.float32) + 0.5) * 3.7450702829239286e-07 - 1.5707963267948966
    sign = 1 - 2 * (angle_words & 1).to(tl.float32)
    return radius * tl.cos(angle) * sign, radius * tl.sin(angle)
