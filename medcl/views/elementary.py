"""exp, log and normal numbers in plain loops that compile to vector instructions: numba has none of its own."""

from __future__ import annotations

import numpy as np
from numba import njit

_LN2 = np.float32(0.6931471805599453)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_BLOCK = 1024
# A product and a sum may be rounded once.
_FUSED = {"contract"}


@njit(nogil=True, cache=True, fastmath=_FUSED)
def exp_in_place(row, bits):
    """row = exp(row), float32; relative error below 3e-7. bits: int32 scratch of the same length.

    2**n from the exponent's bits, times a Taylor polynomial of the rest, which is within half a ln 2.
    """
    n = row.size
    for k in range(n):
        x = min(max(row[k], np.float32(-87.0)), np.float32(87.0))
        whole = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
        rest = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
        bits[k] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        p = np.float32(1 / 5040)
        p = p * rest + np.float32(1 / 720)
        p = p * rest + np.float32(1 / 120)
        p = p * rest + np.float32(1 / 24)
        p = p * rest + np.float32(1 / 6)
        p = p * rest + np.float32(0.5)
        p = p * rest + np.float32(1)
        row[k] = p * rest + np.float32(1)
    power = bits.view(np.float32)
    for k in range(n):
        row[k] *= power[k]


# numpy's error model: Python's looks for a zero before every division, and such a loop is not vectorised.
@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FUSED)
def log_in_place(row):
    """row = log(row) for normal positive float32; error below 2e-7 of the result, or absolute near 0.

    Exponent from the bits; the mantissa by the series of artanh, log m = 2 artanh((m - 1) / (m + 1)).
    """
    bits, exponent = row.view(np.int32), np.empty(row.size, np.int32)
    # Two loops, each of one type: a loop that sees the same memory as integers and as floats is not vectorised.
    for k in range(row.size):
        # Counted from sqrt(1/2), so that the mantissa lies around 1.
        exponent[k] = np.int32(bits[k] - np.int32(0x3F3504F3)) >> np.int32(23)
        bits[k] -= exponent[k] << np.int32(23)
    for k in range(row.size):
        mantissa = row[k]
        t = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
        u = t * t
        p = np.float32(2 / 9)
        p = p * u + np.float32(2 / 7)
        p = p * u + np.float32(2 / 5)
        p = p * u + np.float32(2 / 3)
        p = p * u + np.float32(2)
        row[k] = t * p + np.float32(exponent[k]) * _LN2


@njit(nogil=True, cache=True, fastmath=_FUSED)
def add_noise(view, key, deviation):
    """view += deviation * standard normal numbers; voxel i's number is a function of (key, i) alone.

    Philox 4x32 with 10 rounds (Salmon et al. 2011) gives four words per counter; each pair of words gives two numbers by
    Box-Muller. A block of 1024 counters fills 4096 voxels.
    """
    flat = view.reshape(-1)
    words = np.empty((4, _BLOCK), np.uint32)
    radius = np.empty(_BLOCK, np.float32)
    normal = np.empty((2, _BLOCK), np.float32)
    low, high = np.uint32(key & 0xFFFFFFFF), np.uint32((key >> 32) & 0xFFFFFFFF)
    for start in range(0, flat.size, 4 * _BLOCK):
        _philox(words, np.uint32(start // 4), low, high)
        for pair in range(2):
            _box_muller(words[2 * pair], words[2 * pair + 1], radius, normal)
            for part in range(2):
                first = start + (2 * pair + part) * _BLOCK
                count = min(_BLOCK, flat.size - first)
                target = flat[first : first + max(count, 0)]
                for k in range(target.size):
                    target[k] += deviation * normal[part, k]


@njit(nogil=True, cache=True)
def _philox(words, first, key_low, key_high):
    for k in range(words.shape[1]):
        c0, c1, c2, c3 = first + np.uint32(k), np.uint32(0), np.uint32(0), np.uint32(0)
        k0, k1 = key_low, key_high
        for _ in range(10):
            a = np.uint64(0xD2511F53) * np.uint64(c0)
            b = np.uint64(0xCD9E8D57) * np.uint64(c2)
            c0, c2 = np.uint32(b >> np.uint64(32)) ^ c1 ^ k0, np.uint32(a >> np.uint64(32)) ^ c3 ^ k1
            c1, c3 = np.uint32(b), np.uint32(a)
            k0, k1 = np.uint32(k0 + np.uint32(0x9E3779B9)), np.uint32(k1 + np.uint32(0xBB67AE85))
        words[0, k], words[1, k], words[2, k], words[3, k] = c0, c1, c2, c3


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _box_muller(size_words, angle_words, radius, normal):
    n = radius.size
    for k in range(n):
        radius[k] = (np.float32(np.int32(size_words[k] >> np.uint32(8))) + np.float32(0.5)) * np.float32(2.0**-24)
    log_in_place(radius)
    for k in range(n):
        radius[k] = np.sqrt(np.float32(-2) * radius[k])
    for k in range(n):
        word = angle_words[k]
        # 23 bits for an angle from -pi/2 to pi/2, one more bit for the half of the circle.
        t = (np.float32(np.int32(word >> np.uint32(9))) + np.float32(0.5)) * np.float32(np.pi * 2.0**-23) - np.float32(np.pi / 2)
        sign = np.float32(1) - np.float32(2) * np.float32(np.int32(word & np.uint32(1)))
        u = t * t
        s = np.float32(-1 / 39916800)
        s = s * u + np.float32(1 / 362880)
        s = s * u + np.float32(-1 / 5040)
        s = s * u + np.float32(1 / 120)
        s = s * u + np.float32(-1 / 6)
        s = s * u + np.float32(1)
        c = np.float32(1 / 479001600)
        c = c * u + np.float32(-1 / 3628800)
        c = c * u + np.float32(1 / 40320)
        c = c * u + np.float32(-1 / 720)
        c = c * u + np.float32(1 / 24)
        c = c * u + np.float32(-0.5)
        c = c * u + np.float32(1)
        normal[0, k] = radius[k] * c * sign
        normal[1, k] = radius[k] * s * t
