#include "checkpoint/gguf_model.h"

#include "checkpoint/finite_values.h"
#include "checkpoint/gguf_file.h"
#include "checkpoint/gguf_spec.h"
#include "checkpoint/load_tokenizer.h"
#include "core/parallel.h"
#include "core/units.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace scalebits {
namespace {

/// Elements that one task decodes, in whole rows.
constexpr std::int64_t kTaskElements = 1 << 17;

std::string replace_suffix(std::string_view text, std::string_view from, std::string_view to) {
  if (!text.ends_with(from)) return "";
  return std::string(text.substr(0, text.size() - from.size())) + std::string(to);
}

/// "model.layers.3.self_attn.q_proj.bias" → "blk.3.attn_q.bias".
std::string gguf_name(const std::string& name) {
  if (name == kEmbeddingName) return "token_embd.weight";
  if (name == kFinalNormName) return "output_norm.weight";
  if (name == kHeadName) return "output.weight";
  constexpr std::pair<std::string_view, std::string_view> kParts[] = {
      {".input_layernorm", ".attn_norm"},    {".post_attention_layernorm", ".ffn_norm"},
      {".self_attn.q_proj", ".attn_q"},      {".self_attn.k_proj", ".attn_k"},
      {".self_attn.v_proj", ".attn_v"},      {".self_attn.o_proj", ".attn_output"},
      {".self_attn.q_norm", ".attn_q_norm"}, {".self_attn.k_norm", ".attn_k_norm"},
      {".mlp.gate_proj", ".ffn_gate"},       {".mlp.up_proj", ".ffn_up"},
      {".mlp.down_proj", ".ffn_down"}};
  constexpr std::string_view kPrefix = "model.layers.";
  SCALEBITS_ASSERT(name.starts_with(kPrefix));
  const std::string rest = "blk." + name.substr(kPrefix.size());
  for (const std::string_view kind : {".weight", ".bias"})
    for (const auto& [from, to] : kParts)
      if (std::string found =
              replace_suffix(rest, std::string(from) + std::string(kind), std::string(to) + std::string(kind));
          !found.empty())
        return found;
  throw InternalError(fmt::format("no GGUF name for tensor '{}'", name));
}

/// Head size when the rows of this tensor were interleaved, else 0.
std::int64_t interleaved_head_dim(const ModelSpec& spec, std::string_view name) {
  const bool is_llama = spec.family == Family::llama || spec.family == Family::mistral;
  const bool is_q_or_k =
      name.find(".q_proj.") != std::string_view::npos || name.find(".k_proj.") != std::string_view::npos;
  return is_llama && is_q_or_k ? spec.head_dim : 0;
}

/// The file's row that holds Hugging Face's row `row`: rotary pair (i, i + d/2) lies there as (2i, 2i + 1).
std::int64_t source_row(std::int64_t row, std::int64_t head_dim) {
  if (head_dim == 0) return row;
  const std::int64_t half = head_dim / 2, in_head = row % head_dim;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

/// One tensor on its way: where its rows lie in the file and where they go.
struct Transfer {
  std::string where;
  const GgufTensor* source;
  HostTensor* target;
  std::size_t own_bytes;  // of the target's own buffer; 0 for a view
  std::byte* out;         // that buffer; null for a view
  std::int64_t head_dim;  // see interleaved_head_dim
  std::int64_t rows, cols;

  std::size_t source_row_bytes() const { return source->bytes.size() / static_cast<std::size_t>(rows); }
  std::size_t target_row_bytes() const { return target->bytes.size() / static_cast<std::size_t>(rows); }

  void run(std::int64_t first_row, std::int64_t last_row, bool check_values) const {
    for (std::int64_t row = first_row; out != nullptr && row < last_row; ++row) {
      const auto from = source->bytes.subspan(static_cast<std::size_t>(source_row(row, head_dim)) * source_row_bytes(),
                                              source_row_bytes());
      std::byte* to = out + static_cast<std::size_t>(row) * target_row_bytes();
      if (source->format->plain)
        std::memcpy(to, from.data(), from.size());
      else
        decode_gguf_blocks(*source->format, from, {reinterpret_cast<float*>(to), static_cast<std::size_t>(cols)});
    }
    if (check_values)
      check_finite(target->bytes.subspan(static_cast<std::size_t>(first_row) * target_row_bytes(),
                                         static_cast<std::size_t>(last_row - first_row) * target_row_bytes()),
                   target->dtype, first_row * cols, target->shape, where);
  }
};

/// Sets up `target`: a view when the file's bytes can be used as they are, else still without the buffer it needs.
Transfer begin_transfer(const GgufFile& file, const GgufTensor& source, const TensorShape& wanted,
                        const ModelSpec& spec, HostTensor& target) {
  Transfer transfer{.where = fmt::format("{}: tensor '{}'", file.path().string(), source.name),
                    .source = &source,
                    .target = &target,
                    .own_bytes = 0,
                    .out = nullptr,
                    .head_dim = interleaved_head_dim(spec, wanted.name),
                    .rows = wanted.shape[0],
                    .cols = wanted.shape.size() == 2 ? wanted.shape[1] : 1};
  if (source.shape != wanted.shape)
    fail_input("{}: wanted shape [{}], found [{}]", transfer.where, fmt::join(wanted.shape, ", "),
               fmt::join(source.shape, ", "));
  target.dtype = source.format->plain.value_or(DType::f32);
  target.shape = wanted.shape;
  if (source.format->plain && transfer.head_dim == 0) {
    target.bytes = source.bytes;
    target.owner = file.file();
    return transfer;
  }
  // A quantised vector is one row; its rows cannot be told apart below the block.
  if (wanted.shape.size() == 1 && !source.format->plain) {
    if (transfer.head_dim != 0)
      fail_input("{}: wanted F32, F16 or BF16, found {}", transfer.where, source.format->name);
    transfer.cols = transfer.rows;
    transfer.rows = 1;
  }
  transfer.own_bytes = static_cast<std::size_t>(target.elements()) * size_bytes(target.dtype);
  return transfer;
}

/// Gives each target that is no view its buffer, still to be filled.
void allocate_buffers(std::vector<Transfer>& transfers, const std::string& where, std::uint64_t memory) {
  std::uint64_t total = 0;
  for (const Transfer& transfer : transfers) total += transfer.own_bytes;
  if (total > memory)  // the kernel would promise it all the same, and end some process when it is touched
    fail(ErrorKind::unsupported_hardware,
         "{}: its quantised tensors as f32, and the rows of q and k that move, take {}, this machine has {}", where,
         format_bytes(total), format_bytes(memory));
  for (Transfer& transfer : transfers) {
    if (transfer.own_bytes == 0) continue;
    // Not zeroed first: every byte is written once, and the pages are touched by the thread that fills them.
    const std::shared_ptr<float[]> buffer(new float[(transfer.own_bytes + 3) / 4]);
    transfer.out = reinterpret_cast<std::byte*>(buffer.get());
    transfer.target->bytes = {transfer.out, transfer.own_bytes};
    transfer.target->owner = buffer;
  }
}

void run_all(const std::vector<Transfer>& transfers, bool check_values) {
  struct Task {
    const Transfer* transfer;
    std::int64_t first_row, last_row;
  };
  std::vector<Task> tasks;
  for (const Transfer& transfer : transfers) {
    const std::int64_t rows = std::max<std::int64_t>(1, kTaskElements / transfer.cols);
    for (std::int64_t row = 0; row < transfer.rows; row += rows)
      tasks.push_back({&transfer, row, std::min(row + rows, transfer.rows)});
  }
  parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
    const Task& task = tasks[static_cast<std::size_t>(i)];
    task.transfer->run(task.first_row, task.last_row, check_values);
  });
}

}  // namespace

Checkpoint read_gguf_model(const std::filesystem::path& path, bool check_values, std::uint64_t memory) {
  const GgufFile file = GgufFile::open(path);
  Checkpoint checkpoint;
  checkpoint.source = path.string();
  checkpoint.spec = spec_from_gguf(file);

  std::set<std::string, std::less<>> unused;
  for (const GgufTensor& tensor : file.tensors()) unused.insert(tensor.name);
  unused.erase(std::string(kGgufRopeFactors));                   // read by spec_from_gguf
  if (checkpoint.spec.tied_head) unused.erase("output.weight");  // equal to the embedding
  std::vector<Transfer> transfers;
  for (const TensorShape& wanted : required_tensors(checkpoint.spec)) {
    const std::string name = gguf_name(wanted.name);
    const GgufTensor* source = file.find_tensor(name);
    if (source == nullptr)
      fail_input("{}: tensor '{}' of shape [{}] is missing", path.string(), name, fmt::join(wanted.shape, ", "));
    unused.erase(name);
    transfers.push_back(begin_transfer(file, *source, wanted, checkpoint.spec, checkpoint.tensors[wanted.name]));
  }
  if (!unused.empty())
    fail_input("{}: tensor '{}' is unknown to a {} model", path.string(), *unused.begin(),
               name_of(checkpoint.spec.family));
  allocate_buffers(transfers, path.string(), memory);
  run_all(transfers, check_values);

  checkpoint.tokenizer = load_gguf_tokenizer(file);
  checkpoint.chat_template = file.text("tokenizer.chat_template").value_or("");
  return checkpoint;
}

}  // namespace scalebits
