#include "kernels/isa.h"

#include "core/error.h"

#include <array>
#include <cpuid.h>
#include <cstdlib>
#include <sys/syscall.h>
#include <unistd.h>

namespace scalebits {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"scalar", "avx2", "avx-vnni", "avx512-vnni", "amx"};

bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && ((a >> 4) & 1) != 0;
}

bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;
  if ((d & kTiles) == 0 || (d & kInt8) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::array<bool, 5> ask_machine() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  return {true, avx2, avx2 && has_avx_vnni(), avx512, avx512 && has_amx()};
}

}  // namespace

std::string_view name_of(Isa isa) { return kNames[static_cast<std::size_t>(isa)]; }

Isa isa_from_name(std::string_view name) {
  for (const Isa isa : kIsas)
    if (name == name_of(isa)) return isa;
  fail(ErrorKind::usage, "unknown instruction set '{}'; known: {}", name, fmt::join(kNames, ", "));
}

bool machine_has(Isa isa) {
  static const std::array<bool, 5> has = ask_machine();
  return has[static_cast<std::size_t>(isa)];
}

Isa highest_isa(std::optional<Isa> forced) {
  if (!forced)
    if (const char* name = std::getenv("SCALEBITS_ISA"); name != nullptr && *name != '\0') forced = isa_from_name(name);
  if (forced) {
    if (!machine_has(*forced))
      fail(ErrorKind::unsupported_hardware, "this processor has no {}; `scalebits kernels` lists what it has",
           name_of(*forced));
    return *forced;
  }
  Isa best = Isa::scalar;
  for (const Isa isa : kIsas)
    if (machine_has(isa)) best = isa;
  return best;
}

}  // namespace scalebits
