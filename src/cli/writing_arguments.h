// What the commands that write text share: how tokens are chosen, what ends a text, and the report of --profile.
#pragma once

#include "cli/runtime_arguments.h"
#include "writing/text_writer.h"

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits::cli {

struct WritingArguments {
  std::int64_t tokens = 64;
  SamplingOptions sampling;
  std::vector<std::string> stops;
  RuntimeArguments runtime;
};

/// Adds all of them; `arguments` holds the defaults and must outlive the parser.
void add_writing_options(CLI::App& command, WritingArguments& arguments);

/// Throws Error(usage) naming a given option that says how to draw a token, where temperature 0 draws none.
void require_temperature(const CLI::App& command, const WritingArguments& arguments);

/// Text as it comes, in front of whatever follows.
void print_now(std::string_view text);

/// To stderr: tokens per second of prompt and text, and the time of each operation.
void print_writing_report(const RuntimeModel& model, const Written& written);

}  // namespace scalebits::cli
