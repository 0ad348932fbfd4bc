#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <random>
#include <vector>

/// The normal numbers that torch's CPU generator draws, up to the rounding of logarithm and cosine.
class Random {
 public:
  /// Seeded by whole numbers, as `nas.diffusion.seeding.generator`.
  explicit Random(std::initializer_list<uint64_t> numbers);

  /// `torch.randn(size, generator=...)`.
  std::vector<float> normal(size_t size);

 private:
  float uniform();
  double uniform_double();
  double normal_double();
  void box_muller(float* values);

  std::mt19937 engine_;
  std::optional<double> second_;  // of a pair of normal numbers
};
