// The cache of keys and values of one layer.
#include "kernels/attention.h"

#include "core/error.h"
#include "kernels/cpu/attention_calls.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace scalebits {

KvLayer::Pages::Pages(std::uint64_t bytes) : bytes_(bytes) {
  void* pages = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED)
    fail(ErrorKind::unsupported_hardware,
         "no room for the keys and values of a layer: the system refuses {} bytes ({}); --positions asks for less",
         bytes, std::strerror(errno));
  data_ = static_cast<std::byte*>(pages);
  // A head's rows lie apart: pages of 2 MiB would take memory for thousands of positions with the first.
  ::madvise(pages, bytes, MADV_NOHUGEPAGE);
}

KvLayer::Pages::~Pages() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

KvLayer::KvLayer(KvType type, std::int64_t kv_heads, std::int64_t capacity, std::int64_t head_dim)
    : type_(type), kv_heads_(kv_heads), capacity_(capacity), head_dim_(head_dim), pages_(bytes()) {
  SCALEBITS_ASSERT(kv_heads > 0 && capacity > 0 && head_dim > 0);
}

std::uint64_t KvLayer::bytes() const { return 2 * (plane_bytes() + scale_bytes()); }

const std::byte* KvLayer::keys(std::int64_t head) const {
  return pages_.data() + 2 * scale_bytes() + static_cast<std::uint64_t>(head * capacity_) * row_bytes();
}
const std::byte* KvLayer::values(std::int64_t head) const { return keys(head) + plane_bytes(); }
const float* KvLayer::key_scales(std::int64_t head) const {
  return reinterpret_cast<const float*>(pages_.data()) + head * capacity_;
}
const float* KvLayer::value_scales(std::int64_t head) const { return key_scales(head) + kv_heads_ * capacity_; }

void KvLayer::store(std::int64_t position, const float* k, const float* v) {
  SCALEBITS_ASSERT(position >= 0 && position < capacity_);
  static const bool avx2 = machine_has(Isa::avx2);
  const auto writable = []<typename T>(const T* at) { return const_cast<T*>(at); };
  const std::uint64_t offset = static_cast<std::uint64_t>(position) * row_bytes();
  for (std::int64_t head = 0; head < kv_heads_; ++head) {
    const float *key = k + head * head_dim_, *value = v + head * head_dim_;
    std::byte *key_to = writable(keys(head) + offset), *value_to = writable(values(head) + offset);
    if (type_ == KvType::f16) {
      const auto round = avx2 ? &store_f16_avx2 : &store_f16_scalar;
      round(key, head_dim_, key_to);
      round(value, head_dim_, value_to);
    } else {
      const auto round = avx2 ? &store_i8_avx2 : &store_i8_scalar;
      round(key, head_dim_, key_to, writable(key_scales(head) + position));
      round(value, head_dim_, value_to, writable(value_scales(head) + position));
    }
  }
}

}  // namespace scalebits
