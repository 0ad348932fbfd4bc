#pragma once

#include <stdexcept>
#include <string>

/// An error that the caller can fix; `main` prints it in one line and exits with status 2.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
