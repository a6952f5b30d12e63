// What every command that runs a model without torch takes: threads, instruction set, activations, cache, device,
// profile.
#pragma once

#include "runtime/model.h"
#include "runtime/session.h"

#include <CLI/CLI.hpp>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

namespace scalebits::cli {

struct RuntimeArguments {
  RuntimeOptions runtime;
  KvType kv = KvType::f16;
  std::int64_t positions = 0;  // to keep room for; 0: the model's, on a card at most 8192

  SessionOptions session() const { return {.kv = kv, .max_positions = positions}; }
};

/// Adds --threads, --isa, --activations, --kv, --positions, --device, --gpu-memory and --profile; `arguments` holds
/// the defaults and must outlive the parser.
void add_runtime_options(CLI::App& command, RuntimeArguments& arguments);

/// For work that takes just the room it needs on the CPU: throws Error(usage) naming the command when --positions was
/// given without a card.
void require_card_for_positions(const RuntimeArguments& arguments, const char* command);

/// Tells on stderr which layers a card has.
std::unique_ptr<RuntimeModel> open_model(const std::string& path, const RuntimeArguments& arguments);

/// One line for each operation that took time, with its share.
void print_profile(const Profile& profile, std::FILE* to = stdout);

}  // namespace scalebits::cli
