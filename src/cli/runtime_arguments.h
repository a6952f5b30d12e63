// What every command that runs a model without torch takes: threads, instruction set, activations, cache, device,
// profile.
#pragma once

#include "runtime/model.h"
#include "runtime/session.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>
#include <string>

namespace scalebits::cli {

struct RuntimeArguments {
  RuntimeOptions runtime;
  KvType kv = KvType::f16;
};

/// Adds --threads, --isa, --activations, --kv, --device, --gpu-memory, --gpu-positions and --profile; `arguments` holds
/// the defaults and must outlive the parser.
void add_runtime_options(CLI::App& command, RuntimeArguments& arguments);

/// Tells on stderr which layers a card has.
std::unique_ptr<RuntimeModel> open_model(const std::string& path, const RuntimeArguments& arguments);

/// One line for each operation that took time, with its share.
void print_profile(const Profile& profile, std::FILE* to = stdout);

}  // namespace scalebits::cli
