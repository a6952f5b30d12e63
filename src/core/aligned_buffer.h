// Memory that starts at a multiple of 64 bytes and is not initialised: scratch of kernels and caches.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

namespace scalebits {

template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) { reserve(size); }

  /// Makes room for `size` elements; the old contents are lost when it grows. Never shrinks.
  void reserve(std::size_t size) {
    if (size <= size_) return;
    data_.reset();
    data_.reset(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{64})));
    size_ = size;
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return data_.get()[i]; }
  const T& operator[](std::size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* pointer) const { ::operator delete(pointer, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace scalebits
