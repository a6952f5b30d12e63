// Instruction sets that kernels are written for, each holding all before it, and what this machine has of them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace scalebits {

/// scalar: any x86-64. avx2: AVX2, FMA, F16C. avx_vnni: and 256-bit VPDPBUSD. avx512_vnni: AVX-512 F, BW, VL, DQ, VNNI
/// (it needs no avx_vnni). amx: and AMX's 8-bit tiles, with the kernel's leave to use them.
enum class Isa { scalar, avx2, avx_vnni, avx512_vnni, amx };
inline constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avx_vnni, Isa::avx512_vnni, Isa::amx};

std::string_view name_of(Isa isa);
/// Throws Error(usage) naming the known ones.
Isa isa_from_name(std::string_view name);

/// What the processor and the operating system offer; asked once. For amx, asks Linux for leave (arch_prctl).
bool machine_has(Isa isa);

/// The highest that kernels may use: `forced`, else the environment variable SCALEBITS_ISA unless empty, else the
/// machine's. Throws Error(unsupported_hardware) when the machine lacks the forced one.
Isa highest_isa(std::optional<Isa> forced = {});

}  // namespace scalebits
