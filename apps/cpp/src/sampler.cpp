#include "sampler.h"

#include "random.h"

std::vector<float> sample(const Sampling& sampling, size_t size, uint64_t seed, const Denoise& denoise) {
  std::vector<float> x = Random({seed, 0}).normal(size), input(size);
  for (float& value : x) value *= sampling.initial_scale;
  Random later({seed, 0, sampling.steps.size()});
  for (const Step& step : sampling.steps) {
    for (size_t i = 0; i < size; i++) input[i] = step.input_scale * x[i];
    std::vector<float> prediction = denoise(input, step.timestep, true);
    if (sampling.guidance != 1) {
      const std::vector<float> empty = denoise(input, step.timestep, false);
      for (size_t i = 0; i < size; i++) prediction[i] = empty[i] + sampling.guidance * (prediction[i] - empty[i]);
    }
    for (size_t i = 0; i < size; i++) x[i] = step.keep * x[i] + step.add * prediction[i];
    if (sampling.sampler != "renoise") continue;
    const std::vector<float> noise = later.normal(size);
    for (size_t i = 0; i < size; i++) x[i] += step.noise * noise[i];
  }
  return x;
}
