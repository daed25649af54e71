// Vectors of the instruction set that for_each_isa.h is compiling for, as compiler vector types:
// one source for SSE2, AVX2, AVX-512 and NEON. No include guard: included once per instruction set.
namespace stor::STOR_ISA {

template <typename Scalar>
struct VectorOf {
  using Type __attribute__((vector_size(STOR_VECTOR_BYTES))) = Scalar;
};
template <typename Scalar>
using Vector = typename VectorOf<Scalar>::Type;

// Lanes of a vector of Scalar.
template <typename Scalar>
inline constexpr int64_t kLanes = STOR_VECTOR_BYTES / sizeof(Scalar);

// Reads a vector from any address of its scalars.
template <typename Scalar>
inline __attribute__((always_inline)) Vector<Scalar> load(const Scalar* from) {
  Vector<Scalar> vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <typename Scalar>
inline __attribute__((always_inline)) void store(Scalar* to, Vector<Scalar> vector) {
  std::memcpy(to, &vector, sizeof(vector));
}

template <typename Scalar>
inline __attribute__((always_inline)) Vector<Scalar> broadcast(Scalar value) {
  return value - Vector<Scalar>{};
}

// a * b + c, in one rounding where the instruction set has it.
inline __attribute__((always_inline)) Vector<float> multiply_add(Vector<float> a, Vector<float> b,
                                                                 Vector<float> c) {
#if defined(__x86_64__) && STOR_VECTOR_BYTES == 64
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__x86_64__) && STOR_VECTOR_BYTES == 32
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

}  // namespace stor::STOR_ISA
