// Device memory for tests: filled with NaNs, exactly as large as asked for, with an inaccessible page behind it and a
// pattern before it that is checked at the end. Tensors are logical matrices of doubles laid out in it with strides.
#pragma once
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/params.h"
#include "device.h"

namespace lstmfast {

class GuardedMemory {
 public:
  // Ends at the inaccessible page, or `shift` bytes before it.
  GuardedMemory() = default;
  explicit GuardedMemory(size_t bytes, size_t shift = 0) : bytes_(bytes) {
    const size_t pages = (bytes + shift + kPage - 1) / kPage + 1;
    mapped_ = (pages + 1) * kPage;
    base_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) std::abort();
    mprotect(base_ + pages * kPage, kPage, PROT_NONE);
    data_ = base_ + pages * kPage - bytes - shift;
    std::memset(base_, 0xff, pages * kPage);
    tail_ = shift;
  }
  ~GuardedMemory() {
    if (base_) munmap(base_, mapped_);
  }
  GuardedMemory(GuardedMemory&& o) noexcept { *this = std::move(o); }
  GuardedMemory& operator=(GuardedMemory&& o) noexcept {
    std::swap(base_, o.base_), std::swap(data_, o.data_), std::swap(bytes_, o.bytes_);
    std::swap(mapped_, o.mapped_), std::swap(tail_, o.tail_);
    return *this;
  }
  char* data() const { return data_; }
  size_t size() const { return bytes_; }
  // Whether what lies around it is as it was.
  bool intact() const {
    for (const char* p = base_; p < data_; p++)
      if (*p != static_cast<char>(0xff)) return false;
    for (const char* p = data_ + bytes_; p < data_ + bytes_ + tail_; p++)
      if (*p != static_cast<char>(0xff)) return false;
    return true;
  }
  void fill_with_nans() { std::memset(data_, 0xff, bytes_); }

 private:
  static constexpr size_t kPage = 4096;
  char *base_ = nullptr, *data_ = nullptr;
  size_t bytes_ = 0, mapped_ = 0, tail_ = 0;
};

inline double decode(DType dtype, const void* p) {
  switch (dtype) {
    case DType::kFloat64:
      return *static_cast<const double*>(p);
    case DType::kFloat32:
      return *static_cast<const float*>(p);
    case DType::kBFloat16:
      return cuda::dev::from_bfloat16(*static_cast<const uint16_t*>(p));
    case DType::kFloat16:
      return cuda::dev::from_float16(*static_cast<const uint16_t*>(p));
  }
  std::abort();
}
inline void encode(DType dtype, double x, void* p) {
  switch (dtype) {
    case DType::kFloat64:
      *static_cast<double*>(p) = x;
      return;
    case DType::kFloat32:
      *static_cast<float*>(p) = static_cast<float>(x);
      return;
    case DType::kBFloat16:
      // A NaN keeps its bits, as it does in the other types.
      *static_cast<uint16_t*>(p) = x != x ? static_cast<uint16_t>(cuda::dev::bits_of(static_cast<float>(x)) >> 16)
                                          : cuda::dev::to_bfloat16(static_cast<float>(x));
      return;
    case DType::kFloat16:
      *static_cast<uint16_t*>(p) = cuda::dev::to_float16(static_cast<float>(x));
      return;
  }
}
// x as the type can hold it.
inline double rounded(DType dtype, double x) {
  double memory;
  encode(dtype, x, &memory);
  return decode(dtype, &memory);
}

// [rows, columns], element (r, c) at position(r) + c * column_stride.
class Tensor {
 public:
  Tensor() = default;
  // Row r = (r / batch, r % batch); `extra` elements stay unused behind each row.
  Tensor(DType dtype, int64_t rows, int64_t columns, int64_t batch, int64_t step_stride, int64_t row_stride,
         int64_t column_stride, size_t shift)
      : dtype_(dtype),
        rows_(rows),
        columns_(columns),
        batch_(batch),
        step_stride_(step_stride),
        row_stride_(row_stride),
        column_stride_(column_stride) {
    int64_t last = 0;
    for (int64_t r = 0; r < rows; r++) last = std::max(last, position(r) + (columns - 1) * column_stride);
    memory_ = GuardedMemory(static_cast<size_t>((last + 1) * size_of(dtype)), shift * size_of(dtype));
  }
  bool defined() const { return rows_ > 0; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  void* data() const { return memory_.data(); }
  int64_t position(int64_t r) const { return r / batch_ * step_stride_ + r % batch_ * row_stride_; }
  void* at(int64_t r, int64_t c) const { return memory_.data() + (position(r) + c * column_stride_) * size_of(dtype_); }
  double get(int64_t r, int64_t c) const { return decode(dtype_, at(r, c)); }
  void set(int64_t r, int64_t c, double x) { encode(dtype_, x, at(r, c)); }
  std::vector<double> values() const {
    std::vector<double> v;
    for (int64_t r = 0; r < rows_; r++)
      for (int64_t c = 0; c < columns_; c++) v.push_back(get(r, c));
    return v;
  }
  template <class R>
  R view() const {
    return defined() ? R{data(), step_stride_, row_stride_} : R{};
  }
  template <class M>
  M matrix() const {
    return defined() ? M{data(), row_stride_, column_stride_} : M{};
  }
  bool intact() const {
    if (!defined()) return true;
    if (!memory_.intact()) return false;
    // Between the rows too.
    std::vector<bool> used(memory_.size() / size_of(dtype_));
    for (int64_t r = 0; r < rows_; r++)
      for (int64_t c = 0; c < columns_; c++) used[position(r) + c * column_stride_] = true;
    for (size_t i = 0; i < memory_.size(); i++)
      if (!used[i / size_of(dtype_)] && memory_.data()[i] != static_cast<char>(0xff)) return false;
    return true;
  }

 private:
  DType dtype_ = DType::kFloat32;
  int64_t rows_ = 0, columns_ = 0, batch_ = 1, step_stride_ = 0, row_stride_ = 0, column_stride_ = 0;
  GuardedMemory memory_;
};

}  // namespace lstmfast
