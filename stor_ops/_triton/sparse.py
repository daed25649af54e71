"""Triton kernels of info_nce for positives listed by index: one program per row, no tiles of logits.

A column that is out of range, the query's own or of weight 0 is no positive, and nothing is read for it.
Rows fit in ``BLOCK_D`` components. There are no atomics: whoever owns a row of the result alone adds to it.
"""

# mypy: disable-error-code="import-untyped,import-not-found,untyped-decorator,no-untyped-def"
# ruff: noqa: N803 -- constants of the compiler are in capitals, as everywhere in Triton

import triton
import triton.language as tl


@triton.jit
def _load_row(matrix, row, dim, present, BLOCK_D: tl.constexpr):
    """A row in float32, 0 beyond its end and if it is not ``present``."""
    component = tl.arange(0, BLOCK_D)
    mask = (component < dim) & present
    return tl.load(matrix + row * dim + component, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _load_entry(
    index,
    weight,
    entry,
    row,
    num_keys,
    AGAINST_ITSELF: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
):
    """Column, weight and presence of one listed positive; the column can be read in any case."""
    column = tl.load(index + entry)
    present = (column >= 0) & (column < num_keys)
    if AGAINST_ITSELF:
        present &= column != row
    if HAS_WEIGHT:
        factor = tl.load(weight + entry)
        present &= factor != 0
    else:
        factor = 1.0
    return tl.where(present, column, 0), factor, present


@triton.jit
def positive_kernel(
    query,
    key,
    temperature,
    index,
    weight,
    positive,
    total_weight,
    num_keys,
    dim,
    num_listed,
    AGAINST_ITSELF: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    INSIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Weighted sum, or if ``INSIDE`` weighted logsumexp, of the positives' logits, and sum of weights.

    Grid: (queries,).
    """
    row = tl.cast(tl.program_id(0), tl.int64)
    inverse_temperature = 1.0 / tl.load(temperature)
    own = _load_row(query, row, dim, True, BLOCK_D)
    total, weights = 0.0, 0.0
    peak = -float("inf")
    for listed in range(num_listed):
        column, factor, present = _load_entry(
            index, weight, row * num_listed + listed, row, num_keys, AGAINST_ITSELF, HAS_WEIGHT
        )
        logit = tl.sum(own * _load_row(key, column, dim, present, BLOCK_D), 0) * inverse_temperature
        weights += tl.where(present, factor, 0.0)
        if INSIDE:
            value = tl.where(present, logit + tl.log(tl.where(present, factor, 1.0)), peak)
            higher = tl.maximum(peak, value)
            offset = tl.where(higher == -float("inf"), 0.0, higher)
            added = tl.where(present, tl.exp(value - offset), 0.0)
            total = total * tl.exp(peak - offset) + added
            peak = higher
        else:
            total += tl.where(present, factor * logit, 0.0)
    if INSIDE:
        total = tl.where(peak == -float("inf"), 0.0, peak) + tl.log(total)
    tl.store(positive + row, total)
    tl.store(total_weight + row, weights)


@triton.jit
def entry_kernel(
    grad_positive,
    positive,
    query,
    key,
    temperature,
    index,
    weight,
    entries,
    gradient,
    slope,
    num_keys,
    dim,
    num_listed,
    AGAINST_ITSELF: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    INSIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradient of each listed positive's logit, and what the queries get of it.

    entries (queries, num_listed) gets those gradients, 0 where there is no positive; gradient
    (queries, dim) their sum times the keys; slope (queries,) their sum times the logits.
    Grid: (queries,).
    """
    row = tl.cast(tl.program_id(0), tl.int64)
    inverse_temperature = 1.0 / tl.load(temperature)
    own = _load_row(query, row, dim, True, BLOCK_D)
    inner, own_positive = tl.load(grad_positive + row), tl.load(positive + row)
    total = tl.zeros((BLOCK_D,), tl.float32)
    slopes = 0.0
    for listed in range(num_listed):
        place = row * num_listed + listed
        column, factor, present = _load_entry(
            index, weight, place, row, num_keys, AGAINST_ITSELF, HAS_WEIGHT
        )
        present &= inner != 0
        other = _load_row(key, column, dim, present, BLOCK_D)
        logit = tl.sum(own * other, 0) * inverse_temperature
        entry = inner * factor
        if INSIDE:
            entry *= tl.exp(logit - own_positive)
        entry = tl.where(present, entry, 0.0)
        tl.store(entries + place, entry)
        slopes += tl.where(present, entry * logit, 0.0)
        total += entry * other
    component = tl.arange(0, BLOCK_D)
    tl.store(gradient + row * dim + component, total, mask=component < dim)
    tl.store(slope + row, slopes)


@triton.jit
def segment_kernel(
    entries,
    order,
    offsets,
    query,
    gradient,
    dim,
    num_listed,
    ADD: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What the keys get of the listed positives: entries times their queries, summed key by key.

    order: places in entries, sorted by key and stable; offsets: where each key's places begin, and the
    end. ``ADD`` to gradient (keys, dim), or write it. Grid: (keys,).
    """
    row = tl.cast(tl.program_id(0), tl.int64)
    begin, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    component = tl.arange(0, BLOCK_D)
    place, mask = gradient + row * dim + component, component < dim
    total = tl.load(place, mask=mask, other=0.0) if ADD else tl.zeros((BLOCK_D,), tl.float32)
    for start in range(begin, end, BLOCK_E):
        position = start + tl.arange(0, BLOCK_E)
        entry_place = tl.load(order + position, mask=position < end, other=0)
        entry = tl.load(entries + entry_place, mask=position < end, other=0.0)
        source = query + (entry_place // num_listed)[:, None] * dim + component[None, :]
        present = (entry != 0)[:, None] & mask[None, :]
        queries = tl.load(source, mask=present, other=0.0).to(tl.float32)
        total += tl.sum(entry[:, None] * queries, 0)
    tl.store(place, total, mask=mask)
