// Compares noise, tokens and sampling with the values of apps/golden, which Python computed.
// With `tokenize TOKENIZER.json LENGTH`, prints the ids of every line of standard input, each a JSON string.

#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "error.h"
#include "random.h"
#include "sampler.h"
#include "tokenizer.h"

using nlohmann::json;

namespace {

constexpr double kTolerance = 2e-5;  // torch's vectorized logarithm and cosine differ by some 1e-6

int failed = 0;

void report(const std::string& name, bool equal) {
  if (!equal) std::cout << "differs: " << name << "\n";
  failed += equal ? 0 : 1;
}

bool close(const std::vector<float>& values, const json& expected) {
  bool equal = values.size() == expected.size();
  for (size_t i = 0; equal && i < values.size(); i++)
    equal = std::abs(values[i] - expected[i].get<double>()) <= kTolerance * std::max(1.0, std::abs(expected[i].get<double>()));
  return equal;
}

void check_noise(const json& cases) {
  for (const json& entry : cases) {
    const auto numbers = entry.at("numbers").get<std::vector<uint64_t>>();
    Random random = numbers.size() == 2 ? Random({numbers[0], numbers[1]}) : Random({numbers[0], numbers[1], numbers[2]});
    for (const json& values : entry.at("draws")) report("noise " + entry.at("numbers").dump(), close(random.normal(values.size()), values));
  }
}

void check_tokens(const json& cases, const std::string& folder) {
  for (const json& entry : cases) {
    const Tokenizer tokenizer(folder + "/" + entry.at("tokenizer").get<std::string>());
    for (const json& prompt : entry.at("prompts")) {
      const Tokens tokens = tokenizer.encode(prompt.at("text"), entry.at("length"));
      report("tokens of " + prompt.at("text").dump(), tokens.ids == prompt.at("ids").get<std::vector<int32_t>>() &&
                                                      tokens.mask == prompt.at("mask").get<std::vector<int32_t>>());
    }
  }
}

void check_sampling(const json& cases) {
  for (const json& entry : cases) {
    Sampling sampling{entry.at("sampling").at("sampler"), entry.at("sampling").at("guidance"),
                      entry.at("sampling").at("initial_scale"), {}};
    for (const json& step : entry.at("sampling").at("steps"))
      sampling.steps.push_back({step.at("timestep"), step.at("input_scale"), step.at("keep"), step.at("add"), step.at("noise")});
    const json& expected = entry.at("latents");
    // The analytic denoiser that apps/golden/make.py evaluates with torch.
    const auto denoise = [](const std::vector<float>& x, float timestep, bool conditional) {
      std::vector<float> prediction(x.size());
      for (size_t i = 0; i < x.size(); i++)
        prediction[i] = std::tanh(x[i]) * (0.5f + timestep / 2000) + (conditional ? 0.25f : -0.125f);
      return prediction;
    };
    report("sampling " + entry.at("name").dump(), close(sample(sampling, expected.size(), entry.at("seed"), denoise), expected));
  }
}

void tokenize(const std::string& path, size_t length) {
  const Tokenizer tokenizer(path);
  for (std::string line; std::getline(std::cin, line);)
    std::cout << json(tokenizer.encode(json::parse(line), length).ids) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 4 && std::string(argv[1]) == "tokenize") {
      tokenize(argv[2], std::stoul(argv[3]));
      return 0;
    }
    if (argc != 2) throw Error("usage: check-golden apps/golden");
    const std::string folder = argv[1];
    std::ifstream file(folder + "/golden.json");
    if (!file) throw Error(folder + "/golden.json: cannot be read");
    const json golden = json::parse(file);
    check_noise(golden.at("noise"));
    check_tokens(golden.at("tokens"), folder);
    check_sampling(golden.at("sampling"));
    std::cout << (failed ? "golden values differ\n" : "golden values agree\n");
    return failed ? 1 : 0;
  } catch (const std::exception& error) {
    std::cerr << "check-golden: " << error.what() << "\n";
    return 2;
  }
}
