// One function per sub-command: it adds itself to the application, and its callback parses, calls the library, prints.
#pragma once

#include <CLI/CLI.hpp>

namespace scalebits::cli {

void add_bench(CLI::App& app);
void add_chat(CLI::App& app);
void add_compare(CLI::App& app);
void add_convert(CLI::App& app);
void add_generate(CLI::App& app);
void add_inspect(CLI::App& app);
void add_kl(CLI::App& app);
void add_kernels(CLI::App& app);
void add_perplexity(CLI::App& app);
void add_plan(CLI::App& app);
void add_quantize(CLI::App& app);
void add_random(CLI::App& app);
void add_train(CLI::App& app);
void add_verify(CLI::App& app);
void add_zeroshot(CLI::App& app);

}  // namespace scalebits::cli
