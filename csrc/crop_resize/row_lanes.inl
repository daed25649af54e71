// What row_kernels.inl needs of an instruction set: conversions, permutations and a transpose.
namespace stor::STOR_ISA {
namespace {

#define STOR_INLINE inline __attribute__((always_inline))

using Floats = Vector<float>;
using Ints = Vector<int32_t>;
constexpr int64_t kStep = kLanes<float>;
// As many 8-bit or 16-bit elements as there are floats in a vector.
template <typename Scalar>
struct NarrowOf {
  using Type __attribute__((vector_size(sizeof(Scalar) * STOR_VECTOR_BYTES / 4))) = Scalar;
};
template <typename Scalar>
using Narrow = typename NarrowOf<Scalar>::Type;

template <typename To, typename From>
STOR_INLINE To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename Type, typename Scalar>
STOR_INLINE Type load_as(const Scalar* from) {
  Type vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

// --- elements to floats --------------------------------------------------------------------------

STOR_INLINE Ints widen(const uint8_t* from) {
#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
  return bits_of<Ints>(_mm512_cvtepu8_epi32(load_as<__m128i>(from)));
#elif defined(__x86_64__) && STOR_VECTOR_BYTES == 32
  return bits_of<Ints>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(load_as<int64_t>(from))));
#elif defined(__x86_64__)
  const __m128i zero = _mm_setzero_si128();
  const __m128i bytes = _mm_cvtsi32_si128(load_as<int32_t>(from));
  return bits_of<Ints>(_mm_unpacklo_epi16(_mm_unpacklo_epi8(bytes, zero), zero));
#else
  return __builtin_convertvector(load_as<Narrow<uint8_t>>(from), Ints);
#endif
}

STOR_INLINE Ints widen(const uint16_t* from) {
#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
  return bits_of<Ints>(_mm512_cvtepu16_epi32(load_as<__m256i>(from)));
#elif defined(__x86_64__) && STOR_VECTOR_BYTES == 32
  return bits_of<Ints>(_mm256_cvtepu16_epi32(load_as<__m128i>(from)));
#elif defined(__x86_64__)
  const __m128i halves = _mm_cvtsi64_si128(load_as<int64_t>(from));
  return bits_of<Ints>(_mm_unpacklo_epi16(halves, _mm_setzero_si128()));
#else
  return __builtin_convertvector(load_as<Narrow<uint16_t>>(from), Ints);
#endif
}

STOR_INLINE Floats as_floats(const uint8_t* from) {
  return __builtin_convertvector(widen(from), Floats);
}

STOR_INLINE Floats as_floats(const float* from) { return load(from); }

STOR_INLINE Floats as_floats(const BFloat16* from) {
  return bits_of<Floats>(widen(&from->bits) << 16);
}

STOR_INLINE Floats as_floats(const Float16* from) {
#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
  return _mm512_cvtph_ps(load_as<__m256i>(from));
#elif defined(__x86_64__) && STOR_VECTOR_BYTES == 32
  return _mm256_cvtph_ps(load_as<__m128i>(from));
#else
  const Ints bits = widen(&from->bits);
  const Ints exponent = bits & 0x7c00;
  // The bits of a half, moved to those of a float, are too small by 2^112, subnormal ones as well.
  const Floats scaled = bits_of<Floats>((bits & 0x7fff) << 13) * 0x1p112f;
  const Ints magnitude = bits_of<Ints>(scaled) | ((exponent == 0x7c00) & 0x7f800000);
  return bits_of<Floats>(magnitude | ((bits & 0x8000) << 16));
#endif
}

// --- floats to elements --------------------------------------------------------------------------

STOR_INLINE Narrow<uint16_t> narrow16(Ints bits) {
#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
  return bits_of<Narrow<uint16_t>>(_mm512_cvtepi32_epi16(bits_of<__m512i>(bits)));
#elif defined(__x86_64__) && STOR_VECTOR_BYTES == 32
  const __m256i wide = bits_of<__m256i>(bits);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
  return bits_of<Narrow<uint16_t>>(_mm256_castsi256_si128(packed));
#else
  return __builtin_convertvector(bits, Narrow<uint16_t>);
#endif
}

// Values of at most 255.
STOR_INLINE Narrow<uint8_t> narrow8(Ints values) {
#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
  return bits_of<Narrow<uint8_t>>(_mm512_cvtepi32_epi8(bits_of<__m512i>(values)));
#elif defined(__x86_64__) && STOR_VECTOR_BYTES == 32
  const __m128i words = bits_of<__m128i>(narrow16(values));
  return bits_of<Narrow<uint8_t>>(_mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
#elif defined(__x86_64__)
  const __m128i words = _mm_packs_epi32(bits_of<__m128i>(values), _mm_setzero_si128());
  return bits_of<Narrow<uint8_t>>(_mm_cvtsi128_si32(_mm_packus_epi16(words, words)));
#else
  return __builtin_convertvector(values, Narrow<uint8_t>);
#endif
}

STOR_INLINE Floats convert(Floats value, const float*) { return value; }

STOR_INLINE Narrow<uint16_t> convert(Floats value, const BFloat16*) {
  const Ints bits = bits_of<Ints>(value);
  const Ints rounded = bits + 0x7fff + ((bits >> 16) & 1);  // to the nearest, ties to even
  const Ints number = value == value ? rounded : broadcast<int32_t>(0x7fc00000);
  return narrow16(bits_of<Ints>(bits_of<Vector<uint32_t>>(number) >> 16));
}

STOR_INLINE Narrow<uint16_t> convert(Floats value, const Float16*) {
#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
  return bits_of<Narrow<uint16_t>>(_mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__x86_64__) && STOR_VECTOR_BYTES == 32
  return bits_of<Narrow<uint16_t>>(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#else
  const Ints bits = bits_of<Ints>(value);
  const Ints magnitude = bits & 0x7fffffff;
  // From 2^16 on infinity; from 65520 on the rounding carries into it.
  const Ints is_number = value == value, is_huge = magnitude >= 0x47800000;
  const Ints special = (is_number & 0x7c00) | (~is_number & 0x7e00);
  // Below 2^-14 the sum with 0.5 has the subnormal's bits in its lowest places.
  const Ints is_small = magnitude < 0x38800000;
  const Ints small = bits_of<Ints>(bits_of<Floats>(magnitude) + 0.5f) - 0x3f000000;
  const Ints normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Ints ordinary = (is_small & small) | (~is_small & normal);
  const Ints half = (is_huge & special) | (~is_huge & ordinary);
  return narrow16(half | ((bits >> 16) & 0x8000));
#endif
}

STOR_INLINE Narrow<uint8_t> convert(Floats value, const uint8_t*) {
  value = value > 0.0f ? value : Floats{};  // NaN too
  value = value < 255.0f ? value : broadcast(255.0f);
  // Adding 1.5 * 2^23 rounds to the nearest, ties to even, and leaves the integer in the low bits.
  return narrow8(bits_of<Ints>(value + 12582912.0f) & 0xff);
}

// --- permutations --------------------------------------------------------------------------------

// Whether a window's vectors hold all taps of a block: with 32 registers they stay there for all of
// them; otherwise each tap loads its own.
constexpr bool kHoldsTaps = STOR_VECTOR_BYTES == 64;
constexpr int kPicked = STOR_VECTOR_BYTES == 64 ? 8 : 4;  // vectors, before gathering is faster

// Memory from a place on, of which each lane picks an element, all `offset` further than `lanes`
// says: within kVectors vectors, or, where that is 0 or permutations are too weak, anywhere.
template <int kVectors>
struct Window {
  const float* row;
  STOR_INLINE static Window at(const float* row) { return {row}; }
  STOR_INLINE Floats pick(Ints lanes, int64_t offset = 0) const {
    const float* const from = row + offset;
#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
    return _mm512_i32gather_ps(bits_of<__m512i>(lanes), from, 4);
#elif defined(__x86_64__) && STOR_VECTOR_BYTES == 32
    const __m256i index = bits_of<__m256i>(lanes);
    if constexpr (kVectors == 0) return _mm256_i32gather_ps(from, index, 4);
    Floats picked = _mm256_permutevar8x32_ps(load(from), index);
    for (int part = 1; part < kVectors; ++part) {
      const __m256i here = _mm256_cmpgt_epi32(index, _mm256_set1_epi32(part * kStep - 1));
      const Floats upper = _mm256_permutevar8x32_ps(load(from + part * kStep), index);
      picked = _mm256_blendv_ps(picked, upper, _mm256_castsi256_ps(here));
    }
    return picked;
#else
    return Floats{from[lanes[0]], from[lanes[1]], from[lanes[2]], from[lanes[3]]};
#endif
  }
};

#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
template <int kVectors>
  requires(kVectors > 0)
struct Window<kVectors> {
  Floats parts[kVectors];
  STOR_INLINE static Window at(const float* row) {
    Window window;
    for (int i = 0; i < kVectors; ++i) window.parts[i] = load(row + i * kStep);
    return window;
  }
  STOR_INLINE Floats pick(Ints lanes, int64_t offset = 0) const {
    const __m512i index = bits_of<__m512i>(lanes + static_cast<int32_t>(offset));
    if constexpr (kVectors == 1) return _mm512_permutexvar_ps(index, parts[0]);
    Floats picked = _mm512_permutex2var_ps(parts[0], index, parts[kVectors > 1]);
    for (int part = 2; part < kVectors; part += 2) {
      const __mmask16 here = _mm512_cmpgt_epi32_mask(index, _mm512_set1_epi32(part * kStep - 1));
      if (part + 1 < kVectors) {
        const Floats upper = _mm512_permutex2var_ps(parts[part], index, parts[part + 1]);
        picked = _mm512_mask_mov_ps(picked, here, upper);
      } else {
        picked = _mm512_mask_permutexvar_ps(picked, here, index, parts[part]);
      }
    }
    return picked;
  }
};
#endif

template <int kFirst, int... kLane>
STOR_INLINE Floats zip(Floats a, Floats b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (kFirst + kLane / 2 + kLane % 2 * int(kStep))...);
#else
  return __builtin_shuffle(a, b, Ints{(kFirst + kLane / 2 + kLane % 2 * int(kStep))...});
#endif
}

// A square of as many rows as lanes: each round moves one bit of the row number into the lane's.
STOR_INLINE void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  constexpr auto kAll = std::make_integer_sequence<int, kStep>();
  Floats rows[kStep], mixed[kStep];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kStep; ++i) rows[i] = load(from + i * from_stride);
#pragma GCC unroll 4
  for (int64_t round = 1; round < kStep; round *= 2) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kStep / 2; ++i) {
      mixed[2 * i] = zip<0>(rows[i], rows[i + kStep / 2], kAll);
      mixed[2 * i + 1] = zip<kStep / 2>(rows[i], rows[i + kStep / 2], kAll);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kStep; ++i) rows[i] = mixed[i];
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kStep; ++i) store(to + i * to_stride, rows[i]);
}

}  // namespace
}  // namespace stor::STOR_ISA
