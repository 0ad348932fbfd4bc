#include "random.h"

#include <cmath>

namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;
constexpr size_t kBlock = 16;  // torch transforms uniform numbers to normal ones in blocks of 16

uint64_t mix(std::initializer_list<uint64_t> numbers) {  // splitmix64
  uint64_t mixed = 0;
  for (uint64_t number : numbers) {
    mixed += number + 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    mixed ^= mixed >> 31;
  }
  return mixed;
}

}  // namespace

// torch seeds MT19937 with the lower 32 bits of the seed.
Random::Random(std::initializer_list<uint64_t> numbers) : engine_(static_cast<uint32_t>(mix(numbers))) {}

float Random::uniform() { return static_cast<float>(engine_() & 0xFFFFFF) / 16777216.0f; }

double Random::uniform_double() {
  const uint64_t high = engine_(), low = engine_();
  return static_cast<double>(((high << 32) | low) & ((uint64_t{1} << 53) - 1)) / 9007199254740992.0;
}

double Random::normal_double() {
  if (second_) {
    const double value = *second_;
    second_.reset();
    return value;
  }
  const double u1 = uniform_double(), u2 = uniform_double();
  const double radius = std::sqrt(-2 * std::log1p(-u2)), angle = kTwoPi * u1;
  second_ = radius * std::sin(angle);
  return radius * std::cos(angle);
}

void Random::box_muller(float* values) {
  for (size_t i = 0; i < kBlock / 2; i++) {
    const double u1 = 1 - values[i], u2 = values[i + kBlock / 2];
    const double radius = std::sqrt(-2 * std::log(u1)), angle = kTwoPi * u2;
    values[i] = static_cast<float>(radius * std::cos(angle));
    values[i + kBlock / 2] = static_cast<float>(radius * std::sin(angle));
  }
}

std::vector<float> Random::normal(size_t size) {
  std::vector<float> values(size);
  if (size < kBlock) {
    for (float& value : values) value = static_cast<float>(normal_double());
    return values;
  }
  for (float& value : values) value = uniform();
  for (size_t i = 0; i + kBlock <= size; i += kBlock) box_muller(&values[i]);
  if (size % kBlock != 0) {  // the last 16 values are drawn anew
    for (size_t i = size - kBlock; i < size; i++) values[i] = uniform();
    box_muller(&values[size - kBlock]);
  }
  return values;
}
