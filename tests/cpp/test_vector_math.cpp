// tanh and sigmoid against the C library's in a wider type, at every ISA level that this machine has: a sample of all
// floats, or with --all every one of the 2^32 (some minutes).
//
// The error is counted in units in the last place of the exact result, for results that are normal numbers. Subnormal
// results and inputs are checked as well, with the floating-point mode that a program starts in; the kernels flush
// them.
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/cpu.h"
#include "vector_math_unit.h"

namespace lstmfast {
namespace baseline {
extern const MathUnit kMathUnit;
}
#if defined(LF_HAS_X86_UNITS)
namespace avx2 {
extern const MathUnit kMathUnit;
}
namespace avx512 {
extern const MathUnit kMathUnit;
}
#endif
}  // namespace lstmfast

namespace {

constexpr double kBound = 3;  // units in the last place

template <class C, class Wide>
struct Exact {
  static Wide tanh(C x) { return std::tanh(static_cast<Wide>(x)); }
  static Wide sigmoid(C x) {
    const Wide z = std::exp(-std::fabs(static_cast<Wide>(x)));
    return (x < 0 ? z : Wide{1}) / (1 + z);
  }
};

// |y - exact| in units of the last place of C at `exact`; below the normal numbers these stay as they are at the edge.
template <class C, class Wide>
double error_in_ulp(C y, Wide exact) {
  if (std::isnan(exact)) return std::isnan(y) ? 0 : INFINITY;
  if (std::isnan(y)) return INFINITY;
  const int digits = std::numeric_limits<C>::digits;
  int exponent;
  std::frexp(exact, &exponent);
  exponent = std::max(exponent, std::numeric_limits<C>::min_exponent);
  return static_cast<double>(std::fabs(static_cast<Wide>(y) - exact) / std::ldexp(Wide{1}, exponent - digits));
}

template <class C, class Wide>
struct Worst {
  double error = 0;
  C at = 0;
  void see(C x, C y, Wide exact) {
    const double e = error_in_ulp<C, Wide>(y, exact);
    if (!(e <= error)) error = e, at = x;
  }
  void see(const Worst& other) {
    if (!(other.error <= error)) *this = other;
  }
};

template <class C, class Wide>
struct Worsts {
  Worst<C, Wide> tanh, sigmoid;
  void check(const Activations<C>& unit, const std::vector<C>& x) {
    std::vector<C> y(x.size());
    const auto n = static_cast<int64_t>(x.size());
    unit.tanh(x.data(), y.data(), n);
    for (size_t i = 0; i < x.size(); i++) tanh.see(x[i], y[i], Exact<C, Wide>::tanh(x[i]));
    unit.sigmoid(x.data(), y.data(), n);
    for (size_t i = 0; i < x.size(); i++) sigmoid.see(x[i], y[i], Exact<C, Wide>::sigmoid(x[i]));
  }
  void report(const char* level, const char* type) const {
    std::printf("%-8s %s: tanh %.2f ulp (at %.9g), sigmoid %.2f ulp (at %.9g)\n", level, type, tanh.error,
                static_cast<double>(tanh.at), sigmoid.error, static_cast<double>(sigmoid.at));
    CHECK(tanh.error <= kBound);
    CHECK(sigmoid.error <= kBound);
  }
};

// Every `stride`-th bit pattern: both signs, all exponents, infinities and NaNs among them.
void check_floats(const char* level, const Activations<float>& unit, uint64_t stride) {
  constexpr int64_t kBlock = 1 << 16;
  const auto blocks = static_cast<int64_t>((uint64_t{1} << 32) / stride / kBlock);
  Worsts<float, double> worst;
#pragma omp parallel
  {
    Worsts<float, double> mine;
    std::vector<float> x(kBlock);
#pragma omp for schedule(dynamic)
    for (int64_t block = 0; block < blocks; block++) {
      for (int64_t i = 0; i < kBlock; i++) {
        const auto bits = static_cast<uint32_t>(static_cast<uint64_t>(block * kBlock + i) * stride);
        std::memcpy(&x[static_cast<size_t>(i)], &bits, 4);
      }
      mine.check(unit, x);
    }
#pragma omp critical
    worst.tanh.see(mine.tanh), worst.sigmoid.see(mine.sigmoid);
  }
  worst.report(level, "float32");
}

void check_doubles(const char* level, const Activations<double>& unit) {
  std::mt19937_64 random(1);
  std::vector<double> x;
  for (int i = 0; i < 1 << 17; i++) x.push_back(std::ldexp(std::normal_distribution<double>()(random), -(i % 40)));
  for (int i = 0; i < 1 << 17; i++) x.push_back(std::uniform_real_distribution<double>(-760, 760)(random));
  for (double special : {0., 1e-308, 5e-324, 0.34, 1e308, double(INFINITY), double(NAN), 708.4})
    for (double sign : {1., -1.}) x.push_back(sign * special);
  Worsts<double, long double> worst;
  worst.check(unit, x);
  worst.report(level, "float64");
}

void check_exact_values(const char* level, const Activations<float>& unit) {
  const std::vector<float> x = {0, -0.f, INFINITY, -INFINITY, 200, -200, NAN, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  std::vector<float> t(16), s(16);
  unit.tanh(x.data(), t.data(), 16);
  unit.sigmoid(x.data(), s.data(), 16);
  const bool right = t[0] == 0 && !std::signbit(t[0]) && t[1] == 0 && std::signbit(t[1]) && t[2] == 1 && t[3] == -1 &&
                     t[4] == 1 && t[5] == -1 && std::isnan(t[6]) && s[0] == 0.5f && s[1] == 0.5f && s[2] == 1 &&
                     s[3] == 0 && s[4] == 1 && s[5] == 0 && std::isnan(s[6]);
  if (!right) std::printf("%s: a special value came out wrong\n", level);
  CHECK(right);
}

}  // namespace

int main(int argc, char** argv) {
  const bool all = argc > 1 && std::strcmp(argv[1], "--all") == 0;
  const MathUnit* units[] = {
      &lstmfast::baseline::kMathUnit,
#if defined(LF_HAS_X86_UNITS)
      &lstmfast::avx2::kMathUnit,
      &lstmfast::avx512::kMathUnit,
      nullptr,  // AMX: activations in the same vectors
#endif
  };
  const int levels = sizeof(units) / sizeof(units[0]);
  CHECK(levels == lstmfast::cpu::isa_count());
  for (int i = 0; i < levels; i++) {
    if (!units[i] || !lstmfast::cpu::isa_supported(i)) continue;
    const char* name = lstmfast::cpu::isa_name(i);
    check_exact_values(name, units[i]->of_float);
    check_floats(name, units[i]->of_float, all ? 1 : 1021);
    check_doubles(name, units[i]->of_double);
  }
  return finish();
}
