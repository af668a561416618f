// The least that a C++ test needs: a failed check prints where and with which values, and makes main() return 1.
#pragma once
#include <cmath>
#include <cstdio>

inline int& failures() {
  static int count = 0;
  return count;
}

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::printf("%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      failures()++;                                                             \
    }                                                                           \
  } while (0)

#define CHECK_NEAR(a, b, tolerance)                                                                             \
  do {                                                                                                          \
    const double a_ = (a), b_ = (b);                                                                            \
    if (!(std::fabs(a_ - b_) <= (tolerance))) {                                                                 \
      std::printf("%s:%d: %s = %.17g, %s = %.17g, apart by more than %g\n", __FILE__, __LINE__, #a, a_, #b, b_, \
                  static_cast<double>(tolerance));                                                              \
      failures()++;                                                                                             \
    }                                                                                                           \
  } while (0)

inline int finish() {
  std::printf("%s\n", failures() ? "FAILED" : "passed");
  return failures() ? 1 : 0;
}
