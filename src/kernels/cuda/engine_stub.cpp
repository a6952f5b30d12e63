// The engine of a program that was built without a CUDA toolkit.
#include "kernels/cuda/card_device.h"
#include "kernels/cuda/engine.h"

namespace scalebits::cuda {
namespace {

[[noreturn]] void refuse() {
  throw CardError(
      "this program was built without CUDA (cmake -DSCALEBITS_CUDA=ON needs a CUDA toolkit, 12.8 or later)");
}

}  // namespace

struct Engine::State {};
struct CardMatrices::State {};

std::vector<Card> cards() { refuse(); }
std::unique_ptr<Device> open_card(int) { refuse(); }
CardBuffer::CardBuffer(std::uint64_t) { refuse(); }
Engine::Engine(int) { refuse(); }
Engine::~Engine() = default;
const Card& Engine::card() const { refuse(); }
void Engine::upload(const CardBuffer&, const void*, std::uint64_t) { refuse(); }
void Engine::download(void*, const CardBuffer&, std::uint64_t) { refuse(); }
void Engine::wait() { refuse(); }
void* Engine::stream() const { refuse(); }
void Engine::prepare(const CardInput&, const CardMatrices&) { refuse(); }
void Engine::multiply(const CardMatrices&, std::span<const CardOutput>, ElementType) { refuse(); }
void Engine::product(const CardInput&, const CardMatrices&, std::span<const CardOutput>, ElementType) { refuse(); }
void Engine::reference(const StoredMatrix&, const CardInput&, const CardBuffer&, const CardBuffer&, const CardBuffer&) {
  refuse();
}
bool Engine::gathers(const CardMatrices&) const { refuse(); }
void Engine::leave_own_kernels() { refuse(); }
KernelName Engine::kernel_for(const CardMatrices&, int) const { refuse(); }
void Engine::reserve(int, std::int64_t) { refuse(); }
std::uint64_t Engine::reserve_bytes(int, std::int64_t) const { refuse(); }
std::vector<KernelShape> Engine::kernel_shapes() const { refuse(); }
CardMatrices::CardMatrices(Engine&, std::span<const StoredMatrix>) { refuse(); }
CardMatrices::CardMatrices(Engine&, std::span<const StoredMatrix>, MatricesPlan) { refuse(); }
CardMatrices::~CardMatrices() = default;
CardMatrices::CardMatrices(CardMatrices&&) noexcept = default;
std::int64_t CardMatrices::cols() const { refuse(); }
std::int64_t CardMatrices::rows(int) const { refuse(); }
std::uint64_t CardMatrices::bytes() const { refuse(); }
MatrixView CardMatrices::view() const { refuse(); }

}  // namespace scalebits::cuda
