"""Triton kernels of info_nce that meet every query with every key, a tile of logits at a time.

All matrices are row-major and dense. Offsets between tiles are int64; within a tile they fit in int32.
Logits live in units of log2, for exp2 is what the hardware has. Nothing is written twice and there are
no atomics, so results do not depend on the order in which programs run.
"""

# mypy: disable-error-code="import-untyped,import-not-found,untyped-decorator,no-untyped-def"
# ruff: noqa: N803 -- constants of the compiler are in capitals, as everywhere in Triton

import triton
import triton.language as tl

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def _places(
    first_row,
    num_rows,
    first_column,
    num_columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Offsets of a tile's elements in a matrix, and which of them the matrix has."""
    row, column = tl.arange(0, ROWS)[:, None], first_column + tl.arange(0, COLUMNS)[None, :]
    present = (row < num_rows - first_row) & (column < num_columns)
    return tl.cast(first_row, tl.int64) * num_columns + (row * num_columns + column), present


@triton.jit
def _load_tile(
    matrix,
    first_row,
    num_rows,
    first_column,
    num_columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of a matrix, 0 beyond its last row and column."""
    place, present = _places(first_row, num_rows, first_column, num_columns, ROWS, COLUMNS)
    return tl.load(matrix + place, mask=present, other=0.0)


@triton.jit
def _load_vector(vector, first, end, other: tl.constexpr, LENGTH: tl.constexpr):
    position = first + tl.arange(0, LENGTH)
    return tl.load(vector + position, mask=position < end, other=other)


@triton.jit
def _load_ids(ids, first, end, nothing: tl.constexpr, LENGTH: tl.constexpr):
    """Ids, with ``nothing`` for the negative ones and beyond the end."""
    found = _load_vector(ids, first, end, nothing, LENGTH)
    return tl.where(found < 0, nothing, found)


@triton.jit
def _dot_products(
    owner,
    first_owner,
    num_owners,
    other,
    first_other,
    num_others,
    dim,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Products of some owners with some others, ``BLOCK_D`` of their components at a time."""
    products = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, dim, BLOCK_D):
        left = _load_tile(owner, first_owner, num_owners, start, dim, ROWS, BLOCK_D)
        right = _load_tile(other, first_other, num_others, start, dim, COLUMNS, BLOCK_D)
        products = tl.dot(left, tl.trans(right), products, input_precision=PRECISION)
    return products


@triton.jit
def _add_exponentials(peak, total, values):
    """Running maximum and sum of 2**(value - maximum) per row, after some more columns."""
    peak_after = tl.maximum(peak, tl.max(values, 1))
    # Nothing but -inf so far: any finite offset leaves the sum at 0.
    offset = tl.where(peak_after == -float("inf"), 0.0, peak_after)
    total = total * tl.exp2(peak - offset) + tl.sum(tl.exp2(values - offset[:, None]), 1)
    return peak_after, total


@triton.jit
def _log_of_sum(peak, total):
    """Natural logarithm of a running sum; -inf if nothing was added."""
    offset = tl.where(peak == -float("inf"), 0.0, peak)
    return (offset + tl.log2(total)) * _LN_2


@triton.jit
def statistics_kernel(
    query,
    key,
    temperature,
    query_id,
    key_id,
    lse,
    positive,
    weight,
    num_queries,
    num_keys,
    dim,
    keys_per_split,
    AGAINST_ITSELF: tl.constexpr,
    HAS_IDS: tl.constexpr,
    INSIDE: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Per query the lse over one split of the keys and, for ids, positive and weight.

    Grid: (blocks of queries, splits); outputs are (splits, num_queries). ``WHOLE``: a row fits in
    ``BLOCK_D``, so the queries stay where they are and only keys move.
    """
    first_query, split = tl.program_id(0) * BLOCK_M, tl.program_id(1)
    first_key = split * keys_per_split
    end_key = tl.minimum(first_key + keys_per_split, num_keys)
    row = first_query + tl.arange(0, BLOCK_M)
    inverse_temperature = 1.0 / tl.load(temperature)
    scale = inverse_temperature * _LOG2_E

    peak = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    positive_peak = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    positive_total = tl.zeros((BLOCK_M,), tl.float32)
    count = tl.zeros((BLOCK_M,), tl.float32)
    if WHOLE:
        queries = _load_tile(query, first_query, num_queries, 0, dim, BLOCK_M, BLOCK_D)
    if HAS_IDS:
        row_id = _load_ids(query_id, first_query, num_queries, -1, BLOCK_M)

    for start in range(first_key, end_key, BLOCK_N):
        if WHOLE:
            keys = _load_tile(key, start, num_keys, 0, dim, BLOCK_N, BLOCK_D)
            products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        else:
            products = _dot_products(
                *(query, first_query, num_queries, key, start, num_keys, dim),
                *(BLOCK_M, BLOCK_N, BLOCK_D, PRECISION),
            )
        column = start + tl.arange(0, BLOCK_N)
        valid = (column < num_keys)[None, :]
        if AGAINST_ITSELF:
            valid &= row[:, None] != column[None, :]
        logits = tl.where(valid, products * scale, -float("inf"))
        peak, total = _add_exponentials(peak, total, logits)
        if HAS_IDS:
            column_id = _load_ids(key_id, start, num_keys, -2, BLOCK_N)
            match = valid & (row_id[:, None] == column_id[None, :])
            count += tl.sum(match.to(tl.float32), 1)
            if INSIDE:
                matched = tl.where(match, logits, -float("inf"))
                positive_peak, positive_total = _add_exponentials(
                    positive_peak, positive_total, matched
                )
            else:
                positive_total += tl.sum(tl.where(match, products, 0.0), 1)

    place = tl.cast(split, tl.int64) * num_queries + row
    present = row < num_queries
    tl.store(lse + place, _log_of_sum(peak, total), mask=present)
    if HAS_IDS:
        if INSIDE:
            positives = _log_of_sum(positive_peak, positive_total)
        else:
            positives = positive_total * inverse_temperature
        tl.store(positive + place, positives, mask=present)
        tl.store(weight + place, count, mask=present)


@triton.jit
def gradient_kernel(
    owner,
    other,
    temperature,
    factor,
    owner_id,
    other_id,
    grad_lse,
    lse,
    grad_positive,
    positive,
    gradient,
    slope,
    num_owners,
    num_others,
    dim,
    others_per_split,
    OF_OWNER: tl.constexpr,
    OF_OTHER: tl.constexpr,
    HAS_IDS: tl.constexpr,
    INSIDE: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Gradient of the owners' rows: factor * sum over others of G * other.

    G is the gradient of a logit. ``OF_OWNER``: through the statistics of the owner, who is the query;
    ``OF_OTHER``: of the other, who is. Both: queries against themselves, each logit at once as the
    owner's and as the other's. slope gets sum over others of G * logit per owner.

    Grid: (blocks of owners, blocks of BLOCK_OUT components, splits of the others); gradient is
    (splits, num_owners, dim), slope (splits, num_owners). ``WHOLE``: a row fits in ``BLOCK_D``, which is
    then BLOCK_OUT, and one copy of the others serves both products.
    """
    first_owner, split = tl.program_id(0) * BLOCK_M, tl.program_id(2)
    first_component = tl.program_id(1) * BLOCK_OUT
    first_other = split * others_per_split
    end_other = tl.minimum(first_other + others_per_split, num_others)
    row = first_owner + tl.arange(0, BLOCK_M)
    scale = _LOG2_E / tl.load(temperature)

    total = tl.zeros((BLOCK_M, BLOCK_OUT), tl.float32)
    slopes = tl.zeros((BLOCK_M,), tl.float32)
    if WHOLE:
        owners = _load_tile(owner, first_owner, num_owners, 0, dim, BLOCK_M, BLOCK_D)
    if OF_OWNER:
        row_grad = _load_vector(grad_lse, first_owner, num_owners, 0.0, BLOCK_M)[:, None]
        row_lse = _load_vector(lse, first_owner, num_owners, 0.0, BLOCK_M)[:, None] * _LOG2_E
    if HAS_IDS:
        row_id = _load_ids(owner_id, first_owner, num_owners, -1, BLOCK_M)
        if OF_OWNER:
            row_inner = _load_vector(grad_positive, first_owner, num_owners, 0.0, BLOCK_M)[:, None]
            if INSIDE:
                row_positive = _load_vector(positive, first_owner, num_owners, 0.0, BLOCK_M)
                row_positive = row_positive[:, None] * _LOG2_E

    for start in range(first_other, end_other, BLOCK_N):
        if WHOLE:
            others = _load_tile(other, start, num_others, 0, dim, BLOCK_N, BLOCK_D)
            logits = tl.dot(owners, tl.trans(others), input_precision=PRECISION) * scale
        else:
            products = _dot_products(
                *(owner, first_owner, num_owners, other, start, num_others, dim),
                *(BLOCK_M, BLOCK_N, BLOCK_D, PRECISION),
            )
            logits = products * scale
            others = _load_tile(other, start, num_others, first_component, dim, BLOCK_N, BLOCK_OUT)
        column = start + tl.arange(0, BLOCK_N)
        valid = (column < num_others)[None, :]
        if OF_OWNER and OF_OTHER:
            valid &= row[:, None] != column[None, :]

        # Where nothing flows back nothing is added, though the statistics may be infinite there.
        parts = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if OF_OWNER:
            softmax = tl.exp2(logits - row_lse)
            parts += tl.where(valid & (row_grad != 0), row_grad * softmax, 0.0)
        if OF_OTHER:
            column_grad = _load_vector(grad_lse, start, num_others, 0.0, BLOCK_N)[None, :]
            column_lse = _load_vector(lse, start, num_others, 0.0, BLOCK_N)[None, :] * _LOG2_E
            softmax = tl.exp2(logits - column_lse)
            parts += tl.where(valid & (column_grad != 0), column_grad * softmax, 0.0)
        if HAS_IDS:
            column_id = _load_ids(other_id, start, num_others, -2, BLOCK_N)
            match = valid & (row_id[:, None] == column_id[None, :])
            if OF_OWNER:
                inner = row_inner
                if INSIDE:
                    inner = tl.where(inner != 0, inner * tl.exp2(logits - row_positive), 0.0)
                parts += tl.where(match, inner, 0.0)
            if OF_OTHER:
                inner = _load_vector(grad_positive, start, num_others, 0.0, BLOCK_N)[None, :]
                if INSIDE:
                    column_positive = _load_vector(positive, start, num_others, 0.0, BLOCK_N)
                    column_positive = column_positive[None, :] * _LOG2_E
                    inner = tl.where(inner != 0, inner * tl.exp2(logits - column_positive), 0.0)
                parts += tl.where(match, inner, 0.0)
        slopes += tl.sum(parts * logits, 1)
        total = tl.dot(parts.to(others.dtype), others, total, input_precision=PRECISION)

    place, present = _places(first_owner, num_owners, first_component, dim, BLOCK_M, BLOCK_OUT)
    part = tl.cast(split, tl.int64) * num_owners
    tl.store(gradient + part * dim + place, total * tl.load(factor), mask=present)
    if OF_OWNER and first_component == 0:
        tl.store(slope + part + row, slopes * _LN_2, mask=row < num_owners)
