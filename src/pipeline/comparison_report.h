// What compare() measured, for people: Markdown tables. Differences between rows are taken window by window, so that
// the windows' own spread cancels. Reads rows, measures nothing.
#pragma once

#include "core/json.h"

#include <string>

namespace scalebits {

/// All rows by rate and perplexity, with the difference to `scalebits` at the same rounding and rate.
std::string comparison_table(const Json& rows);

/// One line for each row measured elsewhere: beside it, of our rows (those with a "rate") that take no more bits per
/// weight, the one with the lowest loss on held-out calibration text. Empty without such rows.
std::string peer_table(const Json& rows);

}  // namespace scalebits
