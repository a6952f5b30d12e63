// Every option of a training run in one JSON file, documented in docs/train.md.
#pragma once

#include "core/json.h"
#include "model/model_spec.h"
#include "train/adamw.h"
#include "train/scheme_options.h"
#include "train/train_data_options.h"

#include <cstdint>
#include <string>

namespace scalebits {

struct TrainConfig {
  // Where it starts: exactly one of the three.
  Json model;               // dimensions of a model of random weights
  std::string start_model;  // a checkpoint's weights: folder or GGUF file
  std::string start_run;    // the last checkpoint of another run, with its optimiser's state and step
  std::string tokenizer;    // folder; with start_model and start_run their own unless given

  TrainDataOptions data;
  std::int64_t micro_batches = 1;  // that a batch is cut into; processes share them out
  std::uint64_t steps = 1000;      // in all, those of start_run included
  double learning_rate = 1e-3, lowest_rate_share = 0.1;
  std::uint64_t warmup_steps = 50;
  AdamWOptions adamw;
  double clip_norm = 1;
  std::string compute = "bf16";           // operands of what is not in low precision: bf16 or f32
  std::string fp8_products = "emulated";  // or hardware: the device multiplies E4M3 numbers itself
  std::uint64_t validation_interval = 100, checkpoint_interval = 200;
  double divergence_margin = 1.5;  // nats that the smoothed loss may lie above its lowest
  SchemeOptions scheme;

  std::uint64_t seed() const { return data.seed; }
  Schedule schedule() const { return {learning_rate, lowest_rate_share, warmup_steps, steps}; }
};

/// The options that `json` names over those of `base`. Unknown keys and values of the wrong type are Errors(usage or
/// bad_input) naming `where` and the key.
TrainConfig train_config_from_json(const Json& json, TrainConfig base, const std::string& where);
/// Throws Error(usage) naming `where` and the options that are out of range or contradict each other.
void require_valid(const TrainConfig& config, const std::string& where);
/// All options, the defaults included.
Json to_json(const TrainConfig& config);
/// The model that `config.model` describes; `vocab` where it does not say.
ModelSpec spec_from_config(const TrainConfig& config, std::int64_t vocab, const std::string& where);

}  // namespace scalebits
