// The AMX unit, on emulated tile registers (tests/amx_emulation) or on the processor's own: every cell, forward and
// backward, in bfloat16 and in float32 of reduced precision, against the float64 kernels, which test_kernels holds
// against scalars.
//
// Integers first: where every operand is a small integer, nothing is rounded and results must be exact, so that a wrong
// pair, stride or layout shows as a wrong integer. Then random numbers, whose errors must be those of the rounding.
// Workspaces are full of NaNs: padding that is multiplied without having been cleared shows too.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "amx_emulation/tiles.h"
#include "check.h"
#include "cpu/amx.h"
#include "layer_case.h"

using namespace lstmfast;

namespace {

int level_named(const std::string& name) {
  for (int i = 0; i < cpu::isa_count(); i++)
    if (name == cpu::isa_name(i)) return i;
  return -1;
}

// ---- the emulated instructions
namespace emulated = portable::amx_emulation;

struct Config {
  uint8_t bytes[64] = {1};
  void set(int tile, int rows, int row_bytes) {
    bytes[48 + tile] = static_cast<uint8_t>(rows);
    bytes[16 + 2 * tile] = static_cast<uint8_t>(row_bytes);
  }
};
// sum 0: 2 x 3; a 1: 2 rows of 2 pairs; b 2: 2 pairs of 3 columns
Config small_product() {
  Config c;
  c.set(0, 2, 12), c.set(1, 2, 8), c.set(2, 2, 12);
  return c;
}

template <class F>
bool faults(const F& f) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    std::freopen("/dev/null", "w", stderr);
    f();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

void check_product() {
  const Config config = small_product();
  emulated::ldtilecfg(config.bytes);
  const auto number = [](double x) { return BFloat16(x); };
  // Strides wider than the rows.
  BFloat16 a[2][8], b[2][16];
  float sum[2][5];
  for (int m = 0; m < 2; m++)
    for (int k = 0; k < 8; k++) a[m][k] = number(k < 4 ? 1 + m * 4 + k : NAN);
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < 16; i++) b[k][i] = number(i < 6 ? k * 6 + i - 5 : NAN);
  for (auto& row : sum)
    for (float& x : row) x = 100;
  emulated::tileloadd(0, sum, sizeof(sum[0]));
  emulated::tileloadd(1, a, sizeof(a[0]));
  emulated::tileloadd(2, b, sizeof(b[0]));
  emulated::tdpbf16ps(0, 1, 2);
  emulated::tilestored(0, sum, sizeof(sum[0]));
  for (int m = 0; m < 2; m++)
    for (int n = 0; n < 5; n++) {
      double expected = 100;
      for (int k = 0; k < 4 && n < 3; k++) expected += double(a[m][k]) * double(b[k / 2][2 * n + k % 2]);
      CHECK(sum[m][n] == expected);
    }
  // Subnormal operands count as zero, subnormal sums become zero.
  const auto product_of = [](double x, double y, float before) {
    BFloat16 left[2][4] = {}, right[2][6] = {};
    left[0][0] = BFloat16(x), right[0][0] = BFloat16(y);
    float out[2][3] = {{before}};
    emulated::tileloadd(0, out, 12);
    emulated::tileloadd(1, left, 8);
    emulated::tileloadd(2, right, 12);
    emulated::tdpbf16ps(0, 1, 2);
    emulated::tilestored(0, out, 12);
    return out[0][0];
  };
  CHECK(product_of(0x1p-127, 0x1p20, 3) == 3);
  CHECK(product_of(0x1p-100, 0x1p-40, 0) == 0);
  CHECK(product_of(0x1p-100, 0x1p-26, 0) == 0x1p-126f);
  CHECK(product_of(0, 0, 0x1p-130f) == 0);
  CHECK(std::isnan(product_of(NAN, 0, 0)) && std::isnan(product_of(INFINITY, 0, 0)));
  emulated::tilerelease();
}

void check_faults() {
  const auto with = [](int at, int value) {
    return [=] {
      Config c = small_product();
      c.bytes[at] = static_cast<uint8_t>(value);
      emulated::ldtilecfg(c.bytes);
    };
  };
  const auto multiply = [](Config c) {
    return [=] {
      emulated::ldtilecfg(c.bytes);
      emulated::tdpbf16ps(0, 1, 2);
    };
  };
  CHECK(!faults(with(0, 1)) && faults(with(0, 2)) && faults(with(2, 1)) && faults(with(15, 1)));
  CHECK(faults(with(48, 17)) && faults(with(16, 65)) && faults(with(48, 0)) && faults(with(48 + 8, 1)));
  CHECK(!faults(multiply(small_product())));
  Config rows = small_product(), pairs = rows, columns = rows, half = rows;
  rows.set(0, 1, 12), pairs.set(1, 2, 12), columns.set(0, 2, 16), half.set(1, 2, 6);
  CHECK(faults(multiply(rows)) && faults(multiply(pairs)) && faults(multiply(columns)) && faults(multiply(half)));
  float memory[64];
  CHECK(faults([&] { emulated::tileloadd(0, memory, 4); }));
  CHECK(faults([&] {
    emulated::ldtilecfg(small_product().bytes);
    emulated::tileloadd(3, memory, 4);
  }));
}

// ---- what the processor must offer
void check_facts() {
  cpu::AmxFacts good;
  good.leaf7_edx = 1u << 22 | 1u << 24, good.palette_leaf_eax = 1;
  good.palette1_ebx = 8u << 16 | 64, good.palette1_ecx = 16, good.xcr0 = 3u << 17;
  CHECK(cpu::offers_tiles(good) && !cpu::offers_tiles({}));
  const auto without = [&](auto member, auto value) {
    cpu::AmxFacts f = good;
    f.*member = value;
    return cpu::offers_tiles(f);
  };
  using Facts = cpu::AmxFacts;
  CHECK(!without(&Facts::leaf7_edx, 1u << 22) && !without(&Facts::leaf7_edx, 1u << 24));
  CHECK(!without(&Facts::xcr0, uint64_t{1} << 17) && !without(&Facts::xcr0, uint64_t{1} << 18));
  CHECK(!without(&Facts::palette_leaf_eax, 0u) && !without(&Facts::palette1_ecx, 8u));
  CHECK(!without(&Facts::palette1_ebx, 8u << 16 | 32) && !without(&Facts::palette1_ebx, 4u << 16 | 64));
}

// ---- calls
struct Sizes {
  int64_t steps, batch, input, hidden, projection = 0;
  bool reverse = false;
  std::vector<int64_t> packed = {};
};

template <class T>
Case<T> make(int cell, const Sizes& s) {
  return {cell, s.steps, s.batch, s.input, s.hidden, s.projection, s.reverse, s.packed};
}

// All results of a call, in one order.
using Results = std::vector<std::vector<double>>;
constexpr size_t kOfForward = 4;
constexpr const char* kNames[] = {"y",  "h_n",  "c_n",  "y again", "x",    "h0",
                                  "c0", "w_ih", "w_hh", "w_hr",    "b_ih", "b_hh"};

template <class T>
Results run(Case<T>& c, int isa, int threads, Float32Precision precision) {
  Results results;
  const auto keep = [&](const std::vector<T>& v) { results.emplace_back(v.begin(), v.end()); };
  auto p = c.template params<BackwardParams>(isa, threads);
  p.float32_precision = precision;
  const size_t element = compute_size_of(p.dtype);
  const int64_t width = cpu::reserve_width(c.cell, p.dtype, c.shape.hidden, c.shape.projection);
  const Memory reserve(static_cast<size_t>(width * c.shape.rows) * element);
  for (const bool training : {false, true}) {
    p.reserve = training ? reserve.data : nullptr;
    const Memory workspace(cpu::forward_workspace_bytes(p));
    p.workspace = workspace.data;
    std::fill(c.y.begin(), c.y.end(), T(NAN));
    CHECK(cpu::forward(p) == Status::kOk);
    keep(c.y);
    if (training) continue;
    keep(c.h_n);
    keep(cell_info(c.cell).states > 1 ? c.c_n : std::vector<T>());
  }
  Gradients<T> g(c, p);
  const Memory workspace(cpu::backward_workspace_bytes(p));
  p.workspace = workspace.data;
  CHECK(cpu::backward(p) == Status::kOk);
  for (const auto* v : {&g.x, &g.h0, &g.c0, &g.w_ih, &g.w_hh, &g.w_hr, &g.b_ih, &g.b_hh}) keep(*v);
  return results;
}

template <class T>
void for_all_data(Case<T>& c, const std::function<void(std::vector<T>&)>& f) {
  for (auto* v : {&c.x, &c.h0, &c.c0, &c.w_ih, &c.w_hh, &c.w_hr, &c.b_ih, &c.b_hh, &c.dy, &c.dh_n, &c.dc_n}) f(*v);
}

// The same call in float64.
template <class T>
Results exact_results(const Case<T>& c, const Sizes& s) {
  Case<double> d = make<double>(c.cell, s);
  const std::vector<T> Case<T>::* from[] = {&Case<T>::x,    &Case<T>::h0,   &Case<T>::c0,   &Case<T>::w_ih,
                                            &Case<T>::w_hh, &Case<T>::w_hr, &Case<T>::b_ih, &Case<T>::b_hh,
                                            &Case<T>::dy,   &Case<T>::dh_n, &Case<T>::dc_n};
  int i = 0;
  for_all_data<double>(d, [&](std::vector<double>& v) {
    const auto& source = c.*from[i++];
    v.assign(source.begin(), source.end());
  });
  return run(d, 0, 1, Float32Precision::kHighest);
}

constexpr int kLstm = 0, kTanh = 1, kRelu = 2, kLinearLstm = 3, kLinearRnn = 4;  // in AllCells
int amx_level = -1;

// Results of the tile kernels, the same for one thread and for two or three.
template <class T>
Results tiled_results(Case<T>& c, Float32Precision precision) {
  const Results one = run(c, amx_level, 1, precision);
  CHECK(run(c, amx_level, 2 + static_cast<int>(c.shape.batch % 2), precision) == one);
  return one;
}

void describe(const char* what, int cell, const Sizes& s, DType dtype, Float32Precision precision) {
  std::printf("%s: %s T=%d N=%d I=%d H=%d P=%d%s%s, dtype %d, precision %d\n", what, cell_info(cell).name,
              static_cast<int>(s.steps), static_cast<int>(s.batch), static_cast<int>(s.input),
              static_cast<int>(s.hidden), static_cast<int>(s.projection), s.reverse ? " reverse" : "",
              s.packed.empty() ? "" : " packed", static_cast<int>(dtype), static_cast<int>(precision));
}

// Integers: weights with few entries per row keep the numbers of a few steps below 256, where bfloat16 holds them all.
// `wide_x`, `wide_w`: x or W_ih of up to 10 bits, which take two planes.
template <class T>
void check_exact(int cell, const Sizes& s, Float32Precision precision, bool wide_x = false, bool wide_w = false) {
  Case<T> c = make<T>(cell, s);
  std::uniform_int_distribution<int> small(-1, 1), wide(-1023, 1023);
  for_all_data<T>(c, [&](std::vector<T>& v) {
    for (T& x : v) x = T(small(generator));
  });
  const auto sparse = [&](std::vector<T>& w, int64_t cols) {
    if (cols == 0) return;
    for (size_t at = 0; at < w.size(); at += static_cast<size_t>(cols)) {
      std::fill_n(w.begin() + static_cast<int64_t>(at), cols, T(0));
      for (int entry = 0; entry < 2; entry++)
        w[at + generator() % static_cast<uint64_t>(cols)] = T(generator() % 2 ? 1 : -1);
    }
  };
  sparse(c.w_ih, s.input);
  sparse(c.w_hh, c.shape.output());
  if (s.projection) sparse(c.w_hr, s.hidden);
  if (wide_x)
    for (T& x : c.x) x = T(wide(generator));
  if (wide_w)
    for (T& x : c.w_ih) x = double(x) != 0 ? T(wide(generator)) : T(0);

  const Results expected = exact_results(c, s), got = tiled_results(c, precision);
  const int before = failures();
  for (size_t i = 0; i < got.size(); i++)
    for (size_t k = 0; k < got[i].size(); k++) {
      const double rounded = double(T(expected[i][k]));
      if (got[i][k] == rounded) continue;
      std::printf("%s[%zu] = %g, not %g\n", kNames[i], k, got[i][k], rounded);
      CHECK(got[i][k] == rounded);
      break;
    }
  if (failures() != before) describe("exact", cell, s, kDTypeOf<T>, precision);
}

// Random numbers. `bound` is relative to the largest element of a result. relu's gradients are left to the integers:
// its derivative jumps at zero, and rounding decides on which side a unit is.
double worst = 0;
template <class T>
void check_rounding(int cell, const Sizes& s, Float32Precision precision, double bound) {
  Case<T> c = make<T>(cell, s);
  const Results expected = exact_results(c, s), got = tiled_results(c, precision);
  const int before = failures();
  for (size_t i = 0; i < (cell == kRelu ? kOfForward : got.size()); i++) {
    double largest = 0, error = 0;
    CHECK(std::all_of(got[i].begin(), got[i].end(), [](double x) { return std::isfinite(x); }));
    for (size_t k = 0; k < got[i].size(); k++) {
      largest = std::max(largest, std::fabs(expected[i][k]));
      error = std::max(error, std::fabs(got[i][k] - expected[i][k]));
    }
    if (largest > 0) worst = std::max(worst, error / largest / bound);
    if (error > bound * largest) std::printf("%s: error %g of %g\n", kNames[i], error, largest);
    CHECK(error <= bound * largest);
  }
  if (failures() != before) describe("rounding", cell, s, kDTypeOf<T>, precision);
}

void check_calls() {
  constexpr auto kHigh = Float32Precision::kHigh, kMedium = Float32Precision::kMedium,
                 kHighest = Float32Precision::kHighest;
  std::vector<Sizes> shapes;
  // Heights of tiles, with odd everything else. A linear LSTM is exact for one step only, and then from a state.
  for (int64_t n = 1; n <= 40; n++) shapes.push_back({1, n, 1 + n * 7 % 67, 1 + n * 5 % 37});
  shapes.push_back({1, 17, 33, 70, 5});
  shapes.push_back({1, 16, 64, 16, 33, true});
  shapes.push_back({1, 300, 3, 17});  // more rows than a block's
  shapes.push_back({1, 9, 1100, 7});  // two pieces of depth
  for (const Sizes& s : shapes) {
    check_exact<BFloat16>(kLinearLstm, s, kHighest);
    check_exact<float>(kLinearLstm, s, s.batch % 2 ? kHigh : kMedium);
  }
  const std::vector<Sizes> sequences = {
      {3, 16, 32, 64},
      {3, 5, 31, 65},
      {3, 33, 1, 1},
      {3, 40, 47, 130},
      {4, 3, 33, 15, 0, true},
      {3, 24, 2, 90, 0, false, {24, 17, 3}},
      {4, 21, 35, 20, 0, true, {21, 20, 20, 1}},
      {3, 100, 5, 9},
  };
  for (const Sizes& s : sequences) {
    check_exact<BFloat16>(kLinearRnn, s, kHighest);
    check_exact<float>(kLinearRnn, s, kMedium);
    check_exact<float>(kLinearRnn, s, kHigh);
  }
  check_exact<float>(kLinearRnn, {2, 19, 41, 23}, kHigh, true, false);
  check_exact<float>(kLinearRnn, {2, 19, 41, 23}, kHigh, false, true);

  // bfloat16 rounds h (or dG) once and weights, which here fit, not at all: 2^-9 of each product, and the results once
  // more; half a dozen steps and sums add to that. Medium rounds the weights and x too. High drops low * low, 2^-18 of
  // a product, and what two planes leave of an operand, 2^-17.
  constexpr double kOnce = 1.0 / 64, kTwice = 1.0 / 32, kSplit = 1.0 / (1 << 13);
  for (const int cell : {kLstm, kTanh, kRelu})
    for (Sizes s : {Sizes{5, 18, 33, 21}, Sizes{12, 4, 17, 40, 0, true}, Sizes{40, 9, 5, 11},
                    Sizes{4, 23, 7, 35, 0, false, {23, 22, 9, 2}}, Sizes{5, 10, 6, 37, 19}, Sizes{2, 20, 3, 1100, 0}}) {
      if (s.projection && cell != kLstm) continue;
      if (s.hidden > 1000 && cell != kTanh) continue;
      if (s.steps > 5 && cell == kRelu) continue;  // it grows, and its errors with it
      check_rounding<BFloat16>(cell, s, kHighest, kOnce);
      check_rounding<float>(cell, s, kMedium, kTwice);
      check_rounding<float>(cell, s, kHigh, kSplit);
    }
  std::printf("worst error of random calls: %g of what is allowed\n", worst);
}

// Rounding is to nearest, ties to even, of rows and of weights: a unit matrix on the other side lets it be seen.
void check_nearest() {
  constexpr int64_t kSize = 48;
  for (const bool rows : {false, true}) {
    Case<float> c = make<float>(kLinearRnn, {1, kSize, kSize, kSize});
    for_all_data<float>(c, [](std::vector<float>& v) { std::fill(v.begin(), v.end(), 0.f); });
    std::vector<float>&numbers = rows ? c.x : c.w_ih, &unit = rows ? c.w_ih : c.x;
    for (int64_t i = 0; i < kSize; i++) unit[i * kSize + i] = 1;
    for (size_t i = 0; i < numbers.size(); i++) {
      const uint32_t bits = 0x3f800000 + static_cast<uint32_t>(i) * 0x4000;  // every fourth of a step: ties and others
      std::memcpy(&numbers[i], &bits, 4);
    }
    run(c, amx_level, 1, Float32Precision::kMedium);
    for (int64_t n = 0; n < kSize; n++)
      for (int64_t u = 0; u < kSize; u++)
        CHECK(c.y[n * kSize + u] == double(BFloat16(numbers[rows ? n * kSize + u : u * kSize + n])));
    run(c, amx_level, 1, Float32Precision::kHigh);
    for (int64_t n = 0; n < kSize; n++)
      for (int64_t u = 0; u < kSize; u++) CHECK(c.y[n * kSize + u] == numbers[rows ? n * kSize + u : u * kSize + n]);
  }
}

// What has no tile kernel is the AVX-512 unit's, bit for bit: other types, the highest precision, calls too short to
// pack.
void check_others() {
  const int avx512 = level_named("avx512");
  const Sizes s{5, 9, 11, 21};
  const auto same = [&](auto c, Float32Precision precision) {
    CHECK(run(c, amx_level, 2, precision) == run(c, avx512, 2, precision));
  };
  same(make<double>(0, s), Float32Precision::kMedium);
  same(make<float>(0, s), Float32Precision::kHighest);
  same(make<float>(0, {1, 4, 40, 40}), Float32Precision::kMedium);
  // And the precision means nothing to other levels.
  Case<float> c = make<float>(0, s);
  CHECK(run(c, avx512, 2, Float32Precision::kMedium) == run(c, avx512, 2, Float32Precision::kHighest));
  CHECK(run(c, amx_level, 2, Float32Precision::kMedium) != run(c, avx512, 2, Float32Precision::kHighest));
}

}  // namespace

int main() {
  check_facts();
  check_product();
  check_faults();
  amx_level = level_named(LF_TILES_LEVEL);
  CHECK(amx_level > 0 && cpu::has_tiles(amx_level) && !cpu::has_tiles(level_named("avx512")));
  if (!cpu::isa_supported(amx_level)) {
    std::printf("this machine has no " LF_TILES_LEVEL ": its kernels have not been run\n");
    return finish();
  }
  if (std::strstr(LF_TILES_LEVEL, "emulated")) CHECK(cpu::isa() != amx_level);  // nobody gets it unasked
  check_nearest();
  check_calls();
  check_others();
  return finish();
}
