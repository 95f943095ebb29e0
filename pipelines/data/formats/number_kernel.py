"""Numbers in text, compiled by Numba for this CPU: the double nearest to a decimal number, as `float` makes it.

It is the exact product or quotient of two doubles (W. D. Clinger, "How to read floating point numbers accurately", 1990), or a
product with a power of five of 128 bits (D. Lemire, "Number parsing at a gigabyte per second", 2021; N. Mushtak and D. Lemire,
"Fast number parsing without fallback", 2023).
"""

from typing import Any

import numba
import numpy as np

# Numba makes a float of a signed and an unsigned integer, and checks signed indices for wraparound: so most are unsigned.
_u64: Any = np.uint64
_i64: Any = np.int64
_0, _1, _3, _10, _32, _63, _64 = (_u64(number) for number in (0, 1, 3, 10, 32, 63, 64))
_LOW_HALF = _u64(2**32 - 1)
_PLUS, _MINUS, _POINT, _ZERO, _E = (_u64(ord(character)) for character in "+-.0e")
_SMALL_LETTER = _u64(32)
# As many fit 64 bits.
_MAX_DIGITS = _u64(19)
_MAX_EXPONENT_DIGITS = _u64(9)
_LARGEST_EXACT, _LARGEST_EXACT_POWER = _u64(2**53), 22
# An integer of 64 bits times a smaller power of ten rounds to 0, and one times a larger power to infinity.
_SMALLEST_POWER, _LARGEST_POWER = -342, 308
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -1074, 971
# If these bits of a product's upper half are all set, the lower bits of the power of five decide how it is rounded.
_UNDECIDED = _u64(2**9 - 1)
_MANTISSA_BITS = _u64(52)
# Only with these powers of ten can an integer of 64 bits lie halfway between two doubles.
_SMALLEST_TIE, _LARGEST_TIE = -4, 23

_jit = numba.njit(error_model="numpy")
_inline = numba.njit(error_model="numpy", forceinline=True)


def _leading_bits_of_five(power: int) -> Any:
    """The 128 leading bits of 5**power, rounded down, or up where the power is negative and the product might be exact."""
    five = 5 ** abs(power)
    if power >= 0:
        return five << 128 >> five.bit_length()
    # No power of five but 1 is a power of two.
    return (1 << (five.bit_length() + 127)) // five + (power >= -27)


# Tables of powers; Numba compiles them in.
_TENS = np.asarray([float(10**power) for power in range(_LARGEST_EXACT_POWER + 1)])
_FIVES = np.asarray([divmod(_leading_bits_of_five(n), 2**64) for n in range(_SMALLEST_POWER, _LARGEST_POWER + 1)], np.uint64)
_TWOS = np.ldexp(1.0, np.arange(_SMALLEST_EXPONENT, _LARGEST_EXPONENT + 1))


@_inline
def _product(left, right):  # type: ignore[no-untyped-def]
    """Upper and lower half of a product of 128 bits."""
    left_low, left_high, right_low, right_high = left & _LOW_HALF, left >> _32, right & _LOW_HALF, right >> _32
    lowest, one, other = left_low * right_low, left_high * right_low, left_low * right_high
    middle = (lowest >> _32) + (one & _LOW_HALF) + (other & _LOW_HALF)
    high = left_high * right_high + (one >> _32) + (other >> _32) + (middle >> _32)
    return high, (middle << _32) | (lowest & _LOW_HALF)


@_jit
def nearest(mantissa, power):  # type: ignore[no-untyped-def]
    """The double nearest to mantissa * 10**power."""
    if mantissa <= _LARGEST_EXACT and -_LARGEST_EXACT_POWER <= power <= _LARGEST_EXACT_POWER:
        exact = np.float64(mantissa)
        return exact / _TENS[_u64(-power)] if power < 0 else exact * _TENS[_u64(power)]
    if mantissa == _0 or power < _SMALLEST_POWER:
        return 0.0
    if power > _LARGEST_POWER:
        return np.inf
    zeros, word = _0, mantissa
    for bits in (_u64(32), _u64(16), _u64(8), _u64(4), _u64(2), _u64(1)):
        if word >> (_64 - bits) == _0:
            zeros += bits
            word <<= bits
    row = _u64(power - _SMALLEST_POWER)
    high, low = _product(word, _FIVES[row, 0])
    if high & _UNDECIDED == _UNDECIDED:
        carry, _ = _product(word, _FIVES[row, 1])
        low += carry
        if carry > low:
            high += _1
    upper = high >> _63
    shift = upper + _64 - _MANTISSA_BITS - _3
    bits = high >> shift
    if low <= _1 and _SMALLEST_TIE <= power <= _LARGEST_TIE and bits & _3 == _1 and bits << shift == high:
        bits &= ~_1
    # 217706 / 2**16 is log2(10).
    exponent = ((217706 * power) >> 16) + _i64(upper) - _i64(zeros) + 11
    if exponent > _LARGEST_EXPONENT:
        return np.inf
    if exponent < _SMALLEST_EXPONENT:
        # A subnormal number has fewer bits.
        bits = bits >> _u64(_SMALLEST_EXPONENT - exponent) if exponent > _SMALLEST_EXPONENT - 64 else _0
        exponent = _SMALLEST_EXPONENT
    return np.float64((bits + (bits & _1)) >> _1) * _TWOS[_u64(exponent - _SMALLEST_EXPONENT)]


@_inline
def digit_at(text, at):  # type: ignore[no-untyped-def]
    """The digit there, or a number above 9."""
    return _u64(text[at]) - _ZERO


@_jit
def number(text, at):  # type: ignore[no-untyped-def]
    """The number there, the position behind it, and whether there is one and it is certain."""
    negative = text[at] == _MINUS
    if negative or text[at] == _PLUS:
        at += _1
    first, mantissa, power = at, _0, 0
    digit = digit_at(text, at)
    while digit < _10:
        mantissa = mantissa * _10 + digit
        at += _1
        digit = digit_at(text, at)
    digits = at - first
    if text[at] == _POINT:
        at += _1
        fraction = at
        digit = digit_at(text, at)
        while digit < _10:
            mantissa = mantissa * _10 + digit
            at += _1
            digit = digit_at(text, at)
        digits += at - fraction
        power = -_i64(at - fraction)
    if digits == _0:
        return 0.0, at, False
    last = at
    if _u64(text[at]) | _SMALL_LETTER == _E:
        at += _1
        down = text[at] == _MINUS
        if down or text[at] == _PLUS:
            at += _1
        start, exponent = at, 0
        digit = digit_at(text, at)
        while digit < _10:
            exponent = exponent * 10 + _i64(digit)
            at += _1
            digit = digit_at(text, at)
        if at == start or at - start > _MAX_EXPONENT_DIGITS:
            return 0.0, at, False
        power += -exponent if down else exponent
    if digits > _MAX_DIGITS:
        value, certain = _long(text, first, last, power)
    else:
        value, certain = nearest(mantissa, power), True
    return -value if negative else value, at, certain


@_jit
def _long(text, first, last, power):  # type: ignore[no-untyped-def]
    """The double nearest to more digits than fit 64 bits, and whether it is certain: if those that fit decide."""
    mantissa, digits, rest = _0, _0, False
    for at in range(first, last):
        digit = digit_at(text, _u64(at))
        if digit >= _10:
            continue
        if digits < _MAX_DIGITS:
            mantissa = mantissa * _10 + digit
            digits += _u64(mantissa > _0)
        else:
            power += 1
            rest = rest or digit > _0
    value = nearest(mantissa, power)
    return value, not rest or value == nearest(mantissa + _1, power)
