// Whether an error names what it should.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#define EXPECT_MENTIONS(message, ...)                                   \
  for (const std::string& word : std::vector<std::string>{__VA_ARGS__}) \
  EXPECT_NE((message).find(word), std::string::npos) << "no '" << word << "' in: " << (message)
