// What compare() measured, for people: Markdown tables and a picture. Differences between rows are taken window by
// window, so that the windows' own spread cancels. Reads rows, measures nothing.
#pragma once

#include "core/json.h"
#include "report/plot.h"

#include <string>

namespace scalebits {

/// All rows by rate and perplexity, with the difference to `scalebits` at the same rounding and rate.
std::string comparison_table(const Json& rows);

/// One line for each row measured elsewhere: beside it, of our rows (those with a "rate") that take no more bits per
/// weight, the one with the lowest loss on held-out calibration text. Empty without such rows.
std::string peer_table(const Json& rows);

/// Perplexity over bits per weight: a curve for each allocator and rounding of ours, dots for what was measured
/// elsewhere.
Plot comparison_plot(const Json& rows);

}  // namespace scalebits
